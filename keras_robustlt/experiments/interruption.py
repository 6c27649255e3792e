"""Being told to end: one line that says how to go on, and a shell's exit status."""

import contextlib
import os
import signal
import threading
import time

# Set where the end of the process that started this one is to end it.
PARENT = "KERAS_ROBUSTLT_PARENT"
MESSAGE = "Stopped. Started again, the same command goes on from here."

_asked = []  # the signals that have asked this process to end


class Interruption(KeyboardInterrupt):
    """A signal that asks the process to end, as Ctrl-C does."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ends_in_one_line():
    """Ctrl-C, SIGTERM and SIGHUP end what runs in it, with `MESSAGE`.

    Raises:
        SystemExit: With 128 plus the number of the signal, as shells count.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # What is ignored, as under nohup, stays so.
    usual = signal.SIG_DFL, signal.default_int_handler
    changed = [number for number in numbers if before[number] in usual]
    for number in changed:
        signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"\n{MESSAGE}", flush=True)
        number = getattr(error, "number", signal.SIGINT)
        raise SystemExit(128 + number) from None
    finally:
        for number in changed:
            signal.signal(number, before[number])
        _asked.clear()


def end_with_parent():
    """Ends this process, as SIGTERM does, soon after the one that started it.

    That may have been killed, and could tell nobody. Without `PARENT` it does nothing.
    """
    if os.environ.pop(PARENT, None) is None:
        return
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def check():
    """Raises the interruption again, should a library have swallowed it."""
    if _asked:
        raise Interruption(_asked[-1])


def _interrupt(number, frame):
    _asked.append(number)
    raise Interruption(number)
