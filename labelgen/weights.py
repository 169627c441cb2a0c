"""The weight files that a config needs: what is there, what is missing; fetches what is missing, ahead of a run.

    python -m labelgen.weights --config=configs/my_photos.py --list    # only says what there is
    python -m labelgen.weights --config=configs/my_photos.py           # fetches what is missing, and checks all

A file is looked for in weights_dir first, then where the library that loads the model keeps its downloads; SAM's are
fetched into weights_dir, the others into the cache of Hugging Face (HF_HOME says where). All that is there is
checked: whole, and of the digest that the config, the release or the hub states; nothing is loaded for it. A download
that breaks off goes on where it was. HF_ENDPOINT and SAM_ENDPOINT name other servers that have the files.
Without a network the command says which file to get from where and under which name to save it in weights_dir; once
the files are there, labelgen.run needs no network. The size of a missing file is that of its model's parameters in
float32; some files are stored smaller. Licences are those that the files' publishers state.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys

from labelgen.core.command import command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.progress import say
from labelgen.models.teachers import Needed, entry, needs
from labelgen.models.weight_files import WeightFile, check_hub_digest, check_whole, find


def main(args: argparse.Namespace) -> int:
    """Prints the table and fetches; 0 when all is there, or with --list when it was told."""
    config = load_config(args.config, args.overrides)
    needed = needs(config)
    print("\n\n".join(map(entry, needed)), flush=True)  # licences before the first byte
    missing = [need for need in needed if need.file.local() is None]
    if args.list:
        print(f"\n{len(needed) - len(missing)} of {len(needed)} files are there. next: {_next(args, bool(missing))}")
        return 0
    fetch(missing)
    for need in needed:
        check(need.file)
    print(f"\nready: {', '.join(need.role for need in needed)}, each whole. next: {_next(args, False)}")
    return 0


def fetch(missing: list[Needed]) -> None:
    """Fetches these files; UserError that says of all that did not come where to get them and what to name them."""
    failed = []
    for need in missing:
        say(f"fetching {need.role} {need.name}")
        try:
            find(need.file)
        except UserError as error:
            say(str(error))
            failed.append(need)
    if failed:
        fixes = "; ".join(f"{need.role}: {need.file.by_hand() if need.file.source else 'see above'}" for need in failed)
        raise UserError(f"{len(failed)} of {len(missing)} missing files could not be fetched. {fixes}")


def check(file: WeightFile) -> None:
    """UserError unless the file is whole and of the digest that the config, its publisher or the hub states."""
    path = file.local() or file.saved_as
    check_whole(path)
    check_hub_digest(path)
    find(file)


def _next(args: argparse.Namespace, missing: bool) -> str:
    same = config_flags(args)
    return command_line("labelgen.weights", *same) if missing else command_line("labelgen.run", *same, "--out=DATA")


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.weights`."""
    flags = parser(__doc__ or "", stopped="what came is kept; the same command fetches the rest")
    flags.add_argument("--list", action="store_true", help="fetch nothing")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
