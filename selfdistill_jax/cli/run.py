"""Runs commands: parses flags, prints errors in one line, sets the exit status."""

import contextlib
import difflib
import os
import sys
import textwrap
from collections.abc import Callable, Generator, Sequence
from typing import NoReturn

from absl import app, flags

from selfdistill_jax.errors import InputError
from selfdistill_jax.io import NO_ROOM, reason

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}


def run_command(
    main: Callable[[list[str]], int | None],
    *,
    flag_values: flags.FlagValues = flags.FLAGS,
    parse: Callable[[list[str]], list[str]] | None = None,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command as `absl.app.run` does, but reports wrong input in one line.

    An `InputError`, an unknown flag, a wrong flag value, or a file that the file system refuses (no
    space, no permission) prints ``error: ...`` on stderr and exits with 2. Ctrl-C exits with 130.
    Any other exception is a defect and keeps its traceback. ``--help`` prints the docstring of
    main's module and the flags defined there, and exits with 0.

    Args:
      main: function of the arguments that are not flags, with the program's name first.
      flag_values: flags of the command. A command with its own `flags.FlagValues()`
        (``flags.DEFINE_string(..., flag_values=_FLAGS)``) can use any flag name and be imported
        together with other commands; absl's common flags are accepted too.
      parse: function that sets the flags from the command line and returns the argument of main,
        for a command whose flags raise errors of their own; it may raise InputError.
      argv: command line; None means ``sys.argv``.

    Raises:
      SystemExit: always.
    """

    def parser(argv: Sequence[str]) -> list[str]:
        argv = list(argv)
        options = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
        if not _HELP.isdisjoint(options):
            print(_help(main, flag_values))
            raise SystemExit(0)
        with _one_line(InputError, flags.Error):
            rest = _parse(argv, flag_values) if parse is None else parse(argv)
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # leaves absl's own flags at their defaults
            return rest

    def guarded(argv: list[str]) -> int | None:
        with _one_line(InputError):
            return main(argv)

    with _one_line():
        app.run(guarded, argv=sys.argv if argv is None else list(argv), flags_parser=parser)


def _parse(argv: list[str], values: flags.FlagValues) -> list[str]:
    try:
        if values is flags.FLAGS:
            return values(argv)
        for name in values:
            values[name].unparse()  # a second command in the same process starts from the defaults
        return flags.FLAGS(values(argv, known_only=True))
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1)
        hint = f"did you mean --{near[0]}?" if near else "--help lists the flags"
        raise InputError(f"unknown flag --{error.flagname}; {hint}") from None


def _help(main: Callable, values: flags.FlagValues) -> str:
    text = (sys.modules[main.__module__].__doc__ or "").strip()
    own = values.get_key_flags_for_module(main.__module__)
    if values is not flags.FLAGS:  # only the command's flags, from any module that defined them
        own = [values[name] for name in values]
    lines = [text, "", "Flags:"] if own else [text]
    for flag in sorted(own, key=lambda flag: flag.name):
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(f"  --{flag.name}")
        lines.append(textwrap.indent(textwrap.fill(flag.help + default, 82), " " * 6))
    return "\n".join(lines)


@contextlib.contextmanager
def _one_line(*errors: type[Exception]) -> Generator[None]:
    try:
        yield
    except errors as error:
        _exit(f"error: {error}", 2)
    except BrokenPipeError:  # the reader of the output has exited, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # the status that a shell reports for SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _exit(f"error: {where}{reason(error)}", 2)
    except KeyboardInterrupt:
        _exit("interrupted", 130)


def _exit(message: str, status: int) -> NoReturn:
    print(" ".join(message.splitlines()), file=sys.stderr)
    raise SystemExit(status) from None
