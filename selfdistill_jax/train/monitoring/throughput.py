"""Measures a run: its throughput, the time spent outside training steps, memory and energy."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from selfdistill_jax.train.monitoring.hardware import Energy, device_peak_gb, host_peak_gb

PHASES = ("compile", "evaluation", "checkpoint", "data")
_ENERGY_SECONDS = 30.0  # between two readings of counters that wrap around
_COUNTED = ("triplets", "useful_tokens", "computed_tokens", "useful_flops", "seconds", "data")

# Key of the account, label, unit: "" is a count and "%" a share.
_ROWS = (
    ("steps", "steps", ""),
    ("triplets_per_second", "triplets", "/s"),
    ("useful_tokens_per_second", "useful tokens", "/s"),
    ("padding_share", "padding, of computed tokens", "%"),
    ("model_flops_per_second", "model's operations", "FLOP/s"),
    ("matmul_flops_per_second", "matrix product's operations", "FLOP/s"),
    ("model_flops_utilization", "utilization, of matrix product", "%"),
    ("data_wait_seconds", "waiting for data", "s"),
    ("data_wait_share", "waiting for data, of steps", "%"),
    ("compile_seconds", "compiling, in the background", "s"),
    ("compile_wait_seconds", "waiting for compiled steps", "s"),
    ("seconds_to_first_step", "process start to first step", "s"),
    ("seconds_to_first_update", "process start, first step done", "s"),
    ("evaluation_seconds", "evaluation", "s"),
    ("checkpoint_seconds", "checkpoints", "s"),
    ("host_peak_gb", "most memory, host", "GB"),
    ("device_peak_gb", "most memory, one device", "GB"),
    ("energy_joules", "energy", "J"),
)
# Figures that only the machine can report; others are empty if nothing was measured.
_REPORTED = ("host_peak_gb", "device_peak_gb", "energy_joules")


class RunStats:
    """Accumulates the statistics of a training loop.

    Only the steps of this process count, so a resumed run starts again at zero. Rates are global if
    the figures of each step are; memory and energy are those of this machine. Not thread-safe.

    Args:
      matmul_flops: FLOP/s of a matrix product on the devices whose work ``useful_flops`` counts,
        see `hardware.matmul_rate`; None leaves utilization out. It may be set later, as may
        ``compile_seconds``, the time that `AheadOfTimeStep` took.
      energy: counter of energy since its construction; None constructs one now.
      clock: monotonic clock in seconds.

    Example:
      >>> ledger = RunStats(matmul_flops=1e9)
      >>> for seconds in (30.0, 2.0, 2.0):  # the first compiles
      ...     ledger.step(
      ...         triplets=64,
      ...         useful_tokens=750,
      ...         computed_tokens=1000,
      ...         useful_flops=8e8,
      ...         seconds=seconds,
      ...     )
      >>> account = ledger.account()
      >>> account["triplets_per_second"], account["padding_share"]
      (32.0, 0.25)
      >>> account["model_flops_utilization"]
      0.4
    """

    def __init__(
        self,
        *,
        matmul_flops: float | None,
        energy: Energy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.matmul_flops, self._clock = matmul_flops, clock
        self.compile_seconds: float | None = None
        self._energy = Energy() if energy is None else energy
        self._energy_read = clock()
        self._steps = 0
        self._first = dict.fromkeys(_COUNTED, 0.0)  # of the first step
        self._later = dict.fromkeys(_COUNTED, 0.0)
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._data_before = 0.0  # seconds waited for data up to the last recorded step
        self._inner = 0.0  # seconds of blocks within the open one
        self._first_step: tuple[float, float] | tuple[None, None] = None, None

    def step(
        self,
        *,
        triplets: float,
        useful_tokens: float,
        computed_tokens: float,
        useful_flops: float,
        seconds: float,
    ) -> None:
        """Records one step.

        Args:
          triplets: triplets trained on.
          useful_tokens: tokens of the texts.
          computed_tokens: tokens including padding.
          useful_flops: see `encoder.flops.training_flops`.
          seconds: time from the last step's end to this one's, without evaluation and checkpoints.
            It includes waiting for data; waits recorded since the last call count for this step.
        """
        sums = self._later if self._steps else self._first
        self._steps += 1
        waited, self._data_before = self._spent["data"] - self._data_before, self._spent["data"]
        values = (triplets, useful_tokens, computed_tokens, useful_flops, seconds, waited)
        for name, value in zip(_COUNTED, values, strict=True):
            sums[name] += value
        self._read_energy()

    @contextmanager
    def timed(self, name: str) -> Generator[None]:
        """Records the seconds of a ``with`` block under one of `PHASES`, even if it raises.

        Blocks of the same name add up. The seconds of a nested block do not count for the outer
        block, so no second counts twice; a block counts once it has ended.

        Raises:
          ValueError: the name is not one of `PHASES`.
        """
        if name not in self._spent:
            raise ValueError(f"phase is {name!r}; expected one of {', '.join(PHASES)}")
        outer, self._inner = self._inner, 0.0
        begin = self._clock()
        try:
            yield
        finally:
            taken = self._clock() - begin
            self._spent[name] += taken - self._inner
            self._inner = outer + taken
            self._read_energy()

    def first_step(self, begin: float, end: float) -> None:
        """Records the seconds from process start to the begin and to the end of the first step."""
        self._first_step = begin, end

    def account(self) -> dict[str, float | str | None]:
        """Returns the figures so far; a figure that is not available is None.

        Rates per second, utilization and the share of waiting for data leave out the first step,
        which compiles and fills the pipeline, unless it is the only one. All other figures cover
        all steps. A step in which a new shape is compiled counts like any other.

        Returns:
          ``steps``; ``triplets_per_second``, ``useful_tokens_per_second``; ``padding_share``, the
          share of padding in computed tokens; ``model_flops_per_second``, useful FLOP/s;
          ``matmul_flops_per_second``, as given; ``model_flops_utilization``, the former over the
          latter; ``data_wait_seconds``, ``data_wait_share`` of the steps' time;
          ``compile_seconds``, as given; ``compile_wait_seconds``, the part that steps waited for;
          ``seconds_to_first_step`` and ``seconds_to_first_update``, from the process's start to
          the first step's begin and end; ``evaluation_seconds``,
          ``checkpoint_seconds``; ``host_peak_gb``, ``device_peak_gb``, 10⁹ bytes;
          ``energy_joules`` and ``energy_source``, see `Energy`.
        """
        rated = self._later if self._steps > 1 else self._first
        seconds = rated["seconds"]
        useful, computed = (
            self._first[name] + self._later[name] for name in ("useful_tokens", "computed_tokens")
        )
        flops = _share(rated["useful_flops"], seconds)
        return {
            "steps": self._steps,
            "triplets_per_second": _share(rated["triplets"], seconds),
            "useful_tokens_per_second": _share(rated["useful_tokens"], seconds),
            "padding_share": _share(computed - useful, computed),
            "model_flops_per_second": flops,
            "matmul_flops_per_second": self.matmul_flops,
            "model_flops_utilization": _share(flops, self.matmul_flops),
            "data_wait_seconds": self._spent["data"],
            "data_wait_share": _share(rated["data"], seconds),
            "compile_seconds": self.compile_seconds,
            "compile_wait_seconds": self._spent["compile"],
            "seconds_to_first_step": self._first_step[0],
            "seconds_to_first_update": self._first_step[1],
            "evaluation_seconds": self._spent["evaluation"],
            "checkpoint_seconds": self._spent["checkpoint"],
            "host_peak_gb": host_peak_gb(),
            "device_peak_gb": device_peak_gb(),
            "energy_joules": self._energy.joules(),
            "energy_source": self._energy.source,
        }

    def table(self) -> str:
        """Returns the account as lines of two columns.

        A figure that this machine does not report is marked as such.
        """
        account = self.account()
        width = max(len(label) for _, label, _ in _ROWS)
        lines = []
        for key, label, unit in _ROWS:
            value: Any = account[key]
            if value is not None:
                text = _human(value, unit)
            else:
                text = "not reported by this machine" if key in _REPORTED else "not measured"
            if key == "energy_joules" and account["energy_source"]:
                text += f", by {account['energy_source']}"
            lines.append(f"{label.ljust(width)}  {text}\n")
        return "".join(lines)

    def _read_energy(self) -> None:
        now = self._clock()
        if now - self._energy_read >= _ENERGY_SECONDS:
            self._energy_read = now
            self._energy.joules()


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if whole and part is not None else None


def _human(value: float, unit: str) -> str:
    """Returns a value with its unit; a value with a prefix has three digits.

    >>> [_human(*pair) for pair in ((1200, ""), (0.25, "%"), (83.25, "s"), (999.7, "/s"))]
    ['1,200', '25.0 %', '83.2 s', '1 k/s']
    >>> _human(1.234e12, "FLOP/s"), _human(12.34, "GB")
    ('1.23 TFLOP/s', '12.34 GB')
    """
    if unit == "":
        return f"{value:,}"
    if unit == "%":
        return f"{value:.1%}".replace("%", " %")
    if unit == "s":
        return f"{value:,.1f} s"
    if unit == "GB":
        return f"{value:.2f} GB"
    prefixes = iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while value >= 999.5 and prefix != "P":  # 999.7 rounds to 1 of the next prefix
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.3g} {prefix}{unit}"
