"""The peers' environment: .venv-bench holds mergekit and residuals, and sees the torch and transformers of .venv.

In comes a finished .venv, out comes .venv-bench, unless it is there already with the same requirements. Each of the
contestants so runs on the same Python, torch, transformers and safetensors.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-bench"
REQUIREMENTS = ROOT / "bench" / "requirements.txt"
IMPORTS = "import mergekit.scripts.run_yaml, residuals, torch, transformers"


def main() -> int:
    marker = VENV / "ready"
    if marker.is_file() and marker.read_text() == REQUIREMENTS.read_text():
        return 0
    main_python = ROOT / ".venv" / "bin" / "python"
    if not main_python.exists():
        sys.exit("bench: make .venv first: `make venv`.")
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([str(main_python), "-m", "venv", str(VENV)], check=True)
    packages, main_packages = (_packages(venv / "bin" / "python") for venv in (VENV, ROOT / ".venv"))
    python = str(VENV / "bin" / "python")
    install = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--requirement", str(REQUIREMENTS)], check=True)
    (packages / "main.pth").write_text(f"{main_packages}\n")
    subprocess.run([python, "-m", "compileall", "-qq", str(packages)], check=False)
    subprocess.run([python, "-c", IMPORTS], check=True)
    shutil.copyfile(REQUIREMENTS, marker)
    return 0


def _packages(python: Path) -> Path:
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
