"""What an evaluation shows while it runs: attack, chunk and the time left."""

import sys
import time

__all__ = ["Progress"]


class Progress:
    """A line on the terminal; elsewhere one for each attack, or part of it, on a chunk.

    The time left is what the attacks have taken so far, carried over to the chunks
    that they have not seen. Of an attack that has not run yet nothing is known, so
    that "over" is said before the time.

    Args:
        attacks: Names of the attacks.
        chunks: Integer, how many chunks there are, or `None` if that is not known.
        verbose: Whether to show anything.
        stream: Where to write. Defaults to `None`, which is `sys.stdout`.
    """

    def __init__(self, attacks, chunks, verbose, stream=None):
        self.chunks = chunks
        self.verbose = verbose
        self.stream = stream or sys.stdout
        self._seconds = {name: [] for name in attacks}  # of each chunk it has run on
        self._to_do = {name: chunks for name in attacks}
        self._width = 0

    def begin(self, name, chunk):
        self._name, self._chunk, self._part = name, chunk, ""
        self._began = time.perf_counter()
        self.update(0.0)

    def update(self, fraction, part=""):
        """`fraction` of the attack on this chunk is done; `part` says which."""
        if not self.verbose:
            return
        if self.stream.isatty():
            self._replace(self._line(fraction, part))
        elif part != self._part:
            self._write(self._line(fraction, part) + "\n")
        self._part = part

    def end(self, seconds):
        self._seconds[self._name].append(seconds)
        self.skip(self._name)
        if self.verbose and not self.stream.isatty():
            self._write(self._line(0.0, f"done in {duration(seconds)}") + "\n")

    def skip(self, name):
        """The attack on a chunk was done before."""
        if self.chunks is not None:
            self._to_do[name] = max(self._to_do[name] - 1, 0)

    def close(self):
        if self.verbose and self.stream.isatty():
            self._replace("")
            self._write("\r")

    def time_left(self, fraction=0.0):
        """Seconds, and whether they are for all that is left to do.

        Args:
            fraction: Float in `[0, 1]`: how much of what runs now is done.
        """
        seconds, known = 0.0, True
        for name, to_do in self._to_do.items():
            measured = self._seconds[name]
            if measured:
                # The first includes the time to compile.
                of_chunks = measured[1:] or measured
                each = sum(of_chunks) / len(of_chunks)
            elif name == self._name and fraction > 0:
                each = (time.perf_counter() - self._began) / fraction
            else:
                known = known and not to_do
                continue
            seconds += each * to_do - (each * fraction if name == self._name else 0)
        return max(seconds, 0.0), known

    def _line(self, fraction, part):
        of = "" if self.chunks is None else f"/{self.chunks}"
        words = [f"{self._name}: chunk {self._chunk + 1}{of}", part]
        if self.chunks is not None:
            seconds, known = self.time_left(fraction)
            if seconds >= 1 or known:
                over = "" if known else "over "
                words.append(f"{over}{duration(seconds)} left")
        return ", ".join(word for word in words if word)

    def _replace(self, text):
        self._write("\r" + text.ljust(self._width))
        self._width = len(text)

    def _write(self, text):
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # nobody reads on, which is no reason to stop
            self.verbose = False


def duration(seconds):
    """Seconds in words: "12 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
