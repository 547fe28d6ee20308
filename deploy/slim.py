"""Take out of an installation what Headwater never imports, and compile what stays.

    python deploy/slim.py SITE-PACKAGES

Most of an installation is the `kubernetes` package's generated code: a module for each kind of
object and each group of the API, and the same again for asyncio. Headwater has objects of its own,
and asks the API server by path (`headwater/cluster/api.py`). The client imports that code lazily;
what imports it all the same fails, which the image's tests would meet (tests/image/test_image.py).

Standard library only: it runs in the image's build stage.
"""

from __future__ import annotations

import compileall
import csv
import io
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

#: Folders and modules, by their places in site-packages. Packages stay importable where
#: `__init__.py` is kept.
UNUSED = (
    "kubernetes/aio",
    "kubernetes/client/api/[!_]*.py",
    "kubernetes/client/models/[!_]*.py",
    "kubernetes/**/*_test.py",
    "kubernetes/**/test_*.py",
)


def prune(site: Path) -> int:
    """Remove what is unused, and its lines in RECORD. Return the bytes.

    Raises FileNotFoundError for a pattern that finds nothing, because then the package has changed.
    """
    freed = 0
    for pattern in UNUSED:
        found = sorted(site.glob(pattern))
        if not found:
            raise FileNotFoundError(f"nothing in {site} is {pattern}: look at what that package has now")
        for path in found:
            freed += sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for record in site.glob("*.dist-info/RECORD"):
        rows = [row for row in csv.reader(io.StringIO(record.read_text())) if (site / row[0]).exists()]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        record.write_text(text.getvalue())
    return freed


def compile_all(site: Path) -> None:
    """Compile every module. Python will not look at the sources: they cannot change in an image.

    So an import costs one look less, and the files' times do not matter. Raises SystemExit.
    """
    mode = PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(site, quiet=1, force=True, invalidation_mode=mode):
        raise SystemExit(f"a module in {site} does not compile")


def main() -> None:
    site = Path(sys.argv[1])
    print(f"{prune(site) / 1e6:.0f} MB of unused modules removed")
    compile_all(site)


if __name__ == "__main__":
    main()
