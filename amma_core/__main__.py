import sys

from amma_core.cli import main

sys.exit(main())
