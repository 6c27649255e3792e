"""Measures one cell: its sides in turn, round by round, and the floor beneath them."""

import dataclasses
import importlib.util
import platform
import statistics

import sides
import workers


def available_sides():
    """The sides whose frameworks are installed, and why the others are not there."""
    there, missing = [], {}
    for side, (_, backend) in sides.SIDES.items():
        framework = backend or "torch"
        if not is_installed(framework):
            missing[side] = f"{framework} is not installed"
        else:
            there.append(side)
    return there, missing


def is_installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # from an import hook that hides it
        return False


def measure(cell, names, rounds, steps, say=print, patience=None, quick=False):
    """The figures of a cell.

    Args:
        cell: A `sides.Cell`.
        names: List of keys of `sides.SIDES`.
        rounds: Integer, how often each side has its turn.
        steps: Integer, the steps of a turn.
        say: Function of a line of text, for progress.
        patience: Float, seconds that a side may take to be ready, or it has failed.
            Defaults to `None`, as long as it likes.
        quick: Boolean, whether tiny convolutions do for the peak, where nothing is to
            be measured. Defaults to `False`.

    Returns:
        A dictionary, ready for JSON.
    """
    frameworks = {sides.SIDES[name][1] or "torch" for name in names}
    running, failed, peaks = {}, {}, {}
    # One after the other, so that none compiles while another is timed.
    for name in names:
        try:
            running[name] = _start(name, cell, patience)
        except workers.Failure as failure:
            failed[name] = str(failure)
            say(f"  {name} failed: {failure}")
        else:
            seconds = running[name].description["start_seconds"]
            say(f"  {name}: started in {seconds:.0f} s")
    try:
        _check_same_work(running)
        for framework in sorted(frameworks):
            settings = {"framework": framework, "precision": cell.precision}
            settings |= {"threads": cell.threads, "quick": quick}
            environment = environment_of(framework, cell.threads)
            try:
                worker = workers.Worker("peak.py", settings, environment, patience)
            except workers.Failure as failure:
                say(f"  the convolutions of {framework} failed: {failure}")
            else:
                peaks[f"peak-{framework}"] = worker
        expected = (
            rounds
            * steps
            * sum(
                worker.description["second_step_seconds"] for worker in running.values()
            )
        )
        say(f"  {rounds} rounds of {steps} steps: about {expected / 60:.1f} minutes")
        answers, others = take_turns({**running, **peaks}, rounds, steps, failed, say)
        rates = {
            name.removeprefix("peak-"): {
                key: max(answer[key] for answer in answers[name])
                for key in ("flops_per_second", "product_flops_per_second")
            }
            for name in peaks
            if name not in failed
        }
        descriptions = {name: worker.description for name, worker in running.items()}
    finally:
        for worker in [*running.values(), *peaks.values()]:
            worker.close()
    floor = _floor(cell, descriptions, rates)
    figures = {
        name: {"failed": failed[name]}
        if name in failed
        else {
            **descriptions[name],
            **_summary(cell, answers[name], floor),
        }
        for name in names
    }
    return {
        "cell": dataclasses.asdict(cell),
        "sides": figures,
        "floor": floor,
        "rounds": rounds,
        "steps": steps,
        "share_of_other_processes": others,
    }


def share_peak(cells):
    """Gives the cells of one precision the best rates that any of them has seen.

    A machine has one peak, which the rounds of a single cell may miss.

    Args:
        cells: List of cells' figures, whose floors and shares of it are replaced.
    """
    with_floor = [figures for figures in cells if figures["floor"]]
    for key in ("convolution_flops_per_second", "product_flops_per_second"):
        best = {}
        for figures in with_floor:
            known = best.setdefault(figures["cell"]["precision"], {})
            for framework, rate in figures["floor"][key].items():
                known[framework] = max(rate, known.get(framework, 0))
        for figures in with_floor:
            figures["floor"][key] = dict(best[figures["cell"]["precision"]])
    for figures in with_floor:
        floor = figures["floor"]
        peak = max(floor["convolution_flops_per_second"].values())
        floor["seconds_per_step"] = floor["flops_per_step"] / peak
        for side in figures["sides"].values():
            if "failed" not in side:
                share = floor["seconds_per_step"] / side["seconds_per_step"]
                side["share_of_floor"] = share


def ratio(figures, numerator, denominator):
    """How many times as long `numerator` takes: median of the rounds' own ratios.

    `None` if one of the two is not there.
    """
    rounds = [
        figures["sides"].get(side, {}).get("seconds_by_round")
        for side in (numerator, denominator)
    ]
    if None in rounds:
        return None
    return statistics.median(a / b for a, b in zip(*rounds, strict=True))


def _start(name, cell, patience):
    settings = {"side": name, "cell": dataclasses.asdict(cell)}
    backend = sides.SIDES[name][1] or "torch"
    environment = environment_of(backend, cell.threads)
    return workers.Worker("sides.py", settings, environment, patience)


def environment_of(backend, threads):
    """The environment variables of a worker."""
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # As the recipes have it: PyTorch uses oneDNN on every CPU, TensorFlow does so
        # by itself on those with VNNI only.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        # On a GPU the sides share its memory.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def _check_same_work(running):
    for quantity in ("device", "parameters"):
        values = {name: side.description[quantity] for name, side in running.items()}
        if len(set(values.values())) > 1:
            raise SystemExit(
                f"The sides differ in their {quantity}, so their times cannot be "
                f"compared. Received: {values}. Install the frameworks for the same "
                "device (CUDA_VISIBLE_DEVICES= keeps all on the CPU)."
            )


def take_turns(running, rounds, steps, failed, say):
    """Asks each worker once a round, and leaves out those that have failed.

    Args:
        running: Dictionary of `workers.Worker`, by name.
        rounds: Integer.
        steps: Integer, what a worker is asked for.
        failed: Dictionary of reasons by name, which this adds to.
        say: Function of a line of text, for progress.

    Returns:
        The answers of each worker, by round, and the share of the cores' time that
        other processes took.
    """
    answers = {name: [] for name in running}
    busy = workers.Busy()
    measured = 0.0
    for number in range(rounds):
        # Who starts changes from round to round, so that a drift hits all.
        order = list(running) if number % 2 == 0 else list(reversed(running))
        for name in order:
            if name in failed:
                continue
            try:
                answer = running[name].ask(steps)
            except workers.Failure as failure:
                failed[name] = str(failure)
                say(f"  {name} failed: {failure}")
                continue
            answers[name].append(answer)
            measured += answer["cpu_seconds"] * steps
    return answers, busy.others(measured)


def _floor(cell, descriptions, rates):
    """Counted operations over the rate of the machine's convolutions at best."""
    flops = {
        description["forward_flops_per_image"]
        for description in descriptions.values()
        if "forward_flops_per_image" in description
    }
    if not flops or not rates:
        return None
    flops = cell.passes * cell.batch_size * flops.pop()
    convolutions = {name: rate["flops_per_second"] for name, rate in rates.items()}
    products = {name: rate["product_flops_per_second"] for name, rate in rates.items()}
    return {
        "forward_passes": cell.passes,
        "flops_per_step": flops,
        "convolution_flops_per_second": convolutions,
        "product_flops_per_second": products,
        "seconds_per_step": flops / max(convolutions.values()),
    }


def _summary(cell, answers, floor):
    def median(key):
        return statistics.median(answer[key] for answer in answers)

    seconds = median("seconds")
    peaks = [answer["peak_memory_bytes"] for answer in answers]
    return {
        "seconds_per_step": seconds,
        "images_per_second": cell.batch_size / seconds,
        "cpu_seconds_per_step": median("cpu_seconds"),
        "peak_memory_bytes": None if None in peaks else max(peaks),
        "share_of_floor": floor and floor["seconds_per_step"] / seconds,
        "seconds_by_round": [answer["seconds"] for answer in answers],
    }


def settings(**options):
    """What holds for all cells of a run, for its JSON."""
    return {
        "machine": workers.machine(),
        "python": platform.python_version(),
        "attack": "PGD, Linf, 8/255, step 2/255",
        **options,
    }
