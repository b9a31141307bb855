"""Writes the report's charting library (Vega, Vega-Lite, vega-embed) as one JavaScript file: vega_bundle.py OUTPUT.

The build calls this once per build folder, with the project's own virtual environment.
"""

import os
import sys

NOTICE = """/*!
Vega {vega}, Vega-Lite {vega_lite}, vega-embed {embed}, bundled by vl-convert. Their licence (BSD 3-Clause):

Copyright (c) 2015, University of Washington Interactive Data Lab and contributors. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following
conditions are met:
1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to endorse or promote products
   derived from this software without specific prior written permission.
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING,
BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT
SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR
CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR
PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR
TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE
POSSIBILITY OF SUCH DAMAGE.
*/
"""


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: vega_bundle.py OUTPUT", file=sys.stderr)
        return 2
    try:
        import vl_convert
    except ImportError:
        print(f"vega_bundle.py: {sys.executable} has no package vl-convert-python; run scripts/setup.sh", file=sys.stderr)
        return 1
    notice = NOTICE.format(
        vega=vl_convert.get_vega_version(),
        vega_lite=vl_convert.get_vegalite_versions()[-1],
        embed=vl_convert.get_vega_embed_version(),
    )
    # A function of its own keeps the bundle's hundreds of short names out of the page's scope. Inside a <script> element
    # these two spellings would end it or change how it is read; in JavaScript strings the escaped ones mean the same.
    bundle = vl_convert.javascript_bundle().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    temporary = sys.argv[1] + ".part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{notice}(() => {{{bundle}\n}})();\n")
    os.replace(temporary, sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
