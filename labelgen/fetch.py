"""Fetches Pascal VOC 2012 from its owners' server, checks it and unpacks what the configs read.

    python -m labelgen.fetch voc --out=photos      # then: --config.photos.root=photos/VOCdevkit/VOC2012
    python -m labelgen.fetch sbd --out=photos      # 10,582 photos to train on instead of 1,464

--list only says from where, how large and under which terms. A download that broke off goes on where it was, at any
time; nothing is unpacked before its digest was checked, and a folder has its name only when all of it is there. `sbd`
fetches the Semantic Boundaries Dataset for the names of its photos alone (the photos are VOC's own) and writes the list
`trainaug`: VOC's train and SBD's photos, less VOC's val. --url and --sha256 name another server's copy.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from pathlib import Path

from labelgen.core.command import command, command_line, parser
from labelgen.core.download import Remote
from labelgen.core.errors import UserError
from labelgen.sources.archives import ARCHIVES, VOC_ROOT, counts, entry, fetch


def main(args: argparse.Namespace) -> int:
    """Says what will come, fetches and unpacks it."""
    if args.name not in ARCHIVES:
        raise UserError(f"no archive {args.name!r}; there are {', '.join(ARCHIVES)}")
    out, archive = Path(args.out), ARCHIVES[args.name]
    if args.url or args.sha256:
        digest = f"sha256:{args.sha256}" if args.sha256 else archive.remote.digest
        archive = archive._replace(remote=Remote(args.url or archive.remote.url, digest))
    print(entry(archive, out), flush=True)
    if args.list:
        print(f"\nfetched nothing. next: {command_line('labelgen.fetch', args.name, f'--out={out}')}")
        return 0
    fetch(args.name, archive, out)
    said = ", ".join(f"{name} {count}" for name, count in counts(out).items())
    config = "--config=configs/voc.py", f"--config.photos.root={out / VOC_ROOT}"
    print(
        f"\nready: {out / VOC_ROOT}, photos by list: {said}; {archive.file(out)} may be deleted. "
        f"next: {command_line('labelgen.run', *config, '--out=DATA')}"
    )
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.fetch`."""
    stopped = "what came is kept; the same command goes on from there"
    flags = parser(__doc__ or "", config=False, stopped=stopped)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="where the archive and VOCdevkit/ go")
    flags.add_argument("name", metavar="NAME", help="which archive: voc, or sbd once voc is there")
    flags.add_argument("--list", action="store_true", help="fetch nothing")
    flags.add_argument("--url", default="", help="another address of the archive")
    flags.add_argument("--sha256", default="", metavar="HEX", help="digest of another file than the owners'")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
