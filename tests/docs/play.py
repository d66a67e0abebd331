"""Carry out a page of the documentation as a reader would, block by block, in the folder it is started in.

    python play.py page.md
    python play.py --typed page.md | bash -e      # in a shell of its own, installation included

- a block with a title (```` ```python title="model.py" ````) is written to that file;
- a ``python`` block is run, all of one page's in one namespace, like the cells of a notebook;
- a ``console`` block's lines that begin with ``$ `` are run by the shell; one that should end otherwise than with 0
  says so in a comment, ``# exit code 3``, or ``# exit code 0 or 3``. What installs is run by ``--typed`` alone.

Every other block is for the eye alone.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<code>.*?)^```", re.M | re.S)
INSTALLS = ("cd ", "pip install", "python -m pip", "python3.11 -m venv", "source ", "make ", "mkdir ../")


def blocks(page):
    """Return (language, title, code) of every fenced block."""
    return [(match["language"], match["title"], match["code"]) for match in BLOCK.finditer(page)]


def commands(code, leave=INSTALLS):
    """Return (command, exit codes it may end with) of a console block, but for those that begin with ``leave``."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        if line.startswith("$ ") and not line[2:].startswith(leave):
            command, _, comment = line[2:].partition("  #")
            codes = [int(word) for word in re.findall(r"\d+", comment)] if "exit code" in comment else [0]
            found.append((command.strip(), codes))
    return found


def play(page, namespace):
    """Carry out a page's blocks in order."""
    for language, title, code in blocks(page):
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(code)
        elif language == "python":
            exec(compile(code, "<page>", "exec"), namespace)
        elif language == "console":
            for command, codes in commands(code):
                done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
                if done.returncode not in codes:
                    sys.exit(
                        f"$ {command}\nended with {done.returncode}, not {codes}\n{done.stdout}\n{done.stderr}"
                    )


def typed(page):
    """Return a page as a script for ``bash -e``, whose every Python block is a program of its own."""
    lines = ["TIMEFORMAT='   %0lR'"]
    for language, title, code in blocks(page):
        if title:
            lines.append(f"cat > {title} <<'END_OF_FILE'\n{code}END_OF_FILE")
        elif language == "python":
            lines.append(f"python - <<'END_OF_PYTHON'\n{code}END_OF_PYTHON")
        elif language == "console":
            for command, codes in commands(code, leave=()):
                lines += [f"echo {shlex.quote('$ ' + command)}", "ended=0", f"time {command} || ended=$?"]
                lines.append(f'[[ " {" ".join(map(str, codes))} " == *" $ended "* ]] || exit 1')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, "")
    text = Path(sys.argv[-1]).read_text()
    if "--typed" in sys.argv:
        print(typed(text))
    else:
        play(text, globals())
