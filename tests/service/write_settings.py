"""Puts the table of settings into the page named as argument; `make schema` calls it."""

import sys
from pathlib import Path

from service import settings

if __name__ == "__main__":
    page = Path(sys.argv[1])
    before = page.read_text().split("| variable |")[0]
    page.write_text(before + settings.describe())
