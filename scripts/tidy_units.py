"""What clang-tidy looks at: tidy_units.py BUILD_FOLDER, a configured one. Used by scripts/lint.sh.

Writes BUILD_FOLDER/tidy/compile_commands.json with every source once, though several targets may compile it, and prints the names,
each ended by a zero byte. Where sources are compiled together, the joined unit stands for them.
"""

import json
import os
import pathlib
import re
import sys

build = pathlib.Path(sys.argv[1])
root = pathlib.Path(__file__).resolve().parent.parent
folders = re.compile(rf"({build}/)?(src|tools|tests|bench|fuzz)/")
not_ours = re.compile(r"tests/build/wrong_include|/test_headers\.cpp$|/cmake_pch\.")

units = {}
for command in json.loads((build / "compile_commands.json").read_text()):
    name = os.path.relpath(command["file"], root)
    if folders.match(name) and not not_ours.search(name):
        units.setdefault(name, command)

(build / "tidy").mkdir(exist_ok=True)
(build / "tidy" / "compile_commands.json").write_text(json.dumps(list(units.values())))
sys.stdout.write("".join(f"{name}\0" for name in units))
