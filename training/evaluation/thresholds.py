"""A text such as 0.1:0.9:0.1 or 0.5,0.75 in, tIoU thresholds out; all that is wrong with it in one error."""

from __future__ import annotations

from service.errors import InvalidOptions

ACCEPTED = "FIRST:LAST:STEP or a list by commas, of numbers above 0 and up to 1, is needed, as 0.1:0.9:0.1 or 0.5,0.75"
DIGITS = 6  # behind the point; what a float sum is off by lies far behind
MOST = 1000


def parse_tious(text: str) -> tuple[float, ...]:
    """The thresholds; first and last of a range are both in it."""
    problems: list[str] = []
    numbers = _range(text.split(":"), problems) if ":" in text else _numbers(text.split(","), problems)
    tious = tuple(round(number, DIGITS) for number in numbers)
    if not problems:
        problems += [f"{tiou:g} is not above 0 and up to 1" for tiou in tious if not 0 < tiou <= 1]
        problems += [f"{tiou:g} stands there twice" for tiou in sorted(set(tious)) if tious.count(tiou) > 1]
    if problems:
        raise InvalidOptions(f"tIoU thresholds {text!r}: {'; '.join(problems)}; {ACCEPTED}")
    return tious


def _range(parts: list[str], problems: list[str]) -> tuple[float, ...]:
    numbers = _numbers(parts, problems)
    if len(parts) != 3:
        problems.append(f"a range has three parts, here are {len(parts)}")
    if problems:
        return ()
    first, last, step = numbers
    if step <= 0:
        problems.append(f"step {step:g} is not above 0")
    if last < first:
        problems.append(f"last {last:g} lies below first {first:g}")
    if problems:
        return ()
    if (last - first) / step > MOST:
        problems.append(f"step {step:g} gives more than {MOST} thresholds")
        return ()
    steps = round((last - first) / step)
    if abs(first + steps * step - last) > 10**-DIGITS:
        problems.append(f"steps of {step:g} from {first:g} do not meet last {last:g}")
    return tuple(first + index * step for index in range(steps + 1))


def _numbers(parts: list[str], problems: list[str]) -> tuple[float, ...]:
    numbers: list[float] = []
    for part in parts:
        try:
            number = float(part)
        except ValueError:
            problems.append(f"{part.strip()!r} is not a number")
            continue
        if not abs(number) < float("inf"):  # NaN, too
            problems.append(f"{part.strip()!r} is not finite")
            continue
        numbers.append(number)
    return tuple(numbers)
