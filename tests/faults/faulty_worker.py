"""Arguments of `tal` in; a worker whose model process commits the faults that videos ask for out."""

from __future__ import annotations

import sys

from service.cli import main
from service.worker import children
from tests.faults.faulty_child import ROOT

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from tests.faults.faulty_child import main; "
CHILD += "main(*map(int, sys.argv[2:]))"

if __name__ == "__main__":
    children.CHILD_COMMAND = (sys.executable, "-P", "-c", CHILD, ROOT)
    main()
