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
# Sanitized twins are compiled from the sources of their modules.
not_ours = re.compile(r"tests/build/wrong_include|/test_headers\.cpp$|/cmake_pch\.|_sanitized\.dir/")

units, joined = {}, set()
for command in json.loads((build / "compile_commands.json").read_text()):
    name = os.path.relpath(command["file"], root)
    if not folders.match(name) or not_ours.search(name):
        continue
    units.setdefault(name, command)
    if "/Unity/" in name:
        joined.update(re.findall(r'#include "([^"]+)"', pathlib.Path(command["file"]).read_text()))
units = {name: command for name, command in units.items() if command["file"] not in joined}

(build / "tidy").mkdir(exist_ok=True)
(build / "tidy" / "compile_commands.json").write_text(json.dumps(list(units.values())))
sys.stdout.write("".join(f"{name}\0" for name in units))
