"""Tests how commands start and end: their output streams and exit statuses."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from absl import flags

import selfdistill_jax
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.errors import InputError
from tests.tiny import fails

OWN = flags.FlagValues()
COUNT = flags.DEFINE_integer("count", 3, "How many.", flag_values=OWN, lower_bound=1)
NAME = flags.DEFINE_string("name", None, "Of whom.", flag_values=OWN)


def start(capsys, main, *arguments, **options):
    """Runs a command with the flags above; returns exit status, stdout and stderr."""
    with pytest.raises(SystemExit) as exit_:
        run_command(main, flag_values=OWN, argv=["command", *arguments], **options)
    return exit_.value.code, *capsys.readouterr()


def show(argv):
    print(COUNT.value, NAME.value, argv)


def test_flags_and_arguments_in_any_order(capsys):
    status, out, err = start(capsys, show, "x", "--count=5", "y", "--name", "me", "--", "--z")
    assert (status or 0, out, err) == (0, "5 me ['command', 'x', 'y', '--z']\n", "")


def test_a_second_run_starts_from_the_defaults(capsys):
    start(capsys, show, "--count=5", "--name=me")
    assert start(capsys, show)[1] == "3 None ['command']\n"


def test_status_of_main(capsys):
    assert start(capsys, lambda argv: 7)[0] == 7


def test_input_error_is_one_line(capsys):
    def main(argv):
        raise InputError("a.tsv:3: bad\nrow")

    assert start(capsys, main) == (2, "", "error: a.tsv:3: bad row\n")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--cuont=4", "unknown flag --cuont; did you mean --count?"),
        ("--xyzzy", "unknown flag --xyzzy"),
        ("--count=many", "flag --count=many"),
        ("--count=0", "flag --count=0"),
        ("--name", "Missing value for flag --name"),
    ],
)
def test_flag_error_is_one_line(capsys, argument, message):
    assert fails(start(capsys, show, argument), message)


@pytest.mark.parametrize("argument", ["--help", "-h", "--helpfull"])
def test_help_shows_this_command_only(capsys, argument):
    flags.DEFINE_string("of_another_command", "x", "Not this one's.")
    try:
        status, out, err = start(capsys, show, "--name=me", argument)
    finally:
        delattr(flags.FLAGS, "of_another_command")
    assert (status, err) == (0, "")
    assert out.startswith(f"{__doc__}\n")
    assert [line for line in out.splitlines() if line.startswith("  --")] == [
        "  --count",
        "  --name",
    ]


def test_interrupt(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert start(capsys, main) == (130, "", "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("defect"), flags.UnparsedFlagAccessError("defect")])
def test_a_defect_keeps_its_traceback(error):
    def main(argv):
        raise error

    with pytest.raises(type(error), match="defect"):
        run_command(main, flag_values=OWN, argv=["command"])


def test_parse_takes_over(capsys):
    def parse(argv):
        if "--config.x=1" in argv:
            raise InputError("no key x in the config")
        return ["parsed", *argv]

    assert start(capsys, show, "--config.y=1", parse=parse)[1].endswith(
        "['parsed', 'command', '--config.y=1']\n"
    )
    assert start(capsys, show, "--config.x=1", parse=parse)[2] == "error: no key x in the config\n"


def test_as_a_program_with_absls_own_flags(tmp_path):
    # A fresh process covers absl's first start, sys.argv, and the flags of __main__.
    script = tmp_path / "command.py"
    script.write_text(
        textwrap.dedent('''
        """The command's text."""
        from sys import argv
        from absl import flags
        from selfdistill_jax.cli.run import run_command
        K = flags.DEFINE_integer("k", 10, "Results.")
        def main(argv):
            print(K.value, argv[1:])
        if "parse" in argv:
            run_command(main, parse=lambda argv: argv)  # sets no flag: absl's defaults hold
        run_command(main)
        ''').lstrip()
    )

    def call(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "error", script, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(selfdistill_jax.__file__).parents[1])},
        )
        return done.returncode, done.stdout, done.stderr

    assert call("a", "--k=2") == (0, "2 ['a']\n", "")
    assert call("--", "--kk=2") == (0, "10 ['--kk=2']\n", "")
    assert call("parse", "--k=2") == (0, "10 ['parse', '--k=2']\n", "")
    assert call("--kk=2") == (2, "", "error: unknown flag --kk; did you mean --k?\n")
    status, out, _ = call("--help")
    assert (status, out.splitlines()[0]) == (0, "The command's text.")
