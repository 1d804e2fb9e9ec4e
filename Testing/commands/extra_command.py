"""A command of another package, as its entry point would find it."""

from ASCONDenoiseLib.commands.arguments import add_command


def add(subparsers):
    parser = add_command(subparsers, "extra", run, summary="do more", example="ascon extra 3")
    parser.add_argument("count", type=int)


def run(args, console):
    for done in range(args.count):
        console.progress(done + 1, args.count)
    console.answer(f"counted to {args.count}", counted=args.count)
