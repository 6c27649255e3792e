"""What is noteworthy about data: collected while they are read, shown as a table."""

import textwrap
import warnings

from keras_robustlt.class_names import as_text
from keras_robustlt.data.arguments import check_choice, is_whole

ERROR, WARNING, NOTE = "error", "warning", "note"


class DataCheck:
    """What `data.check` found.

    `print` shows it as a table. What `data.load` refuses is an error, what it warns of
    is a warning, and what it does without a word is a note.

    Args:
        source: What was checked, for a name.

    Attributes:
        source: String, its name.
        class_counts: Dictionary from `"train"`, `"validation"` and `"test"`, as far as
            they are there, to dictionaries from class names to numbers of images.
        findings: List of dictionaries, the most serious ones first, with the keys
            `"severity"` (`"error"`, `"warning"` or `"note"`), `"kind"` (a word or two),
            `"message"` (a sentence), `"count"` and `"where"` (a list of strings: all
            the files, images or classes in question). Everything in it can be written
            as JSON.

    Example:

    >>> checked = krl.data.check("digits")
    >>> checked.ok, checked.class_counts["test"]["0"]
    (True, 60)
    """

    def __init__(self, source):
        self.source = str(source)
        self.class_counts = {}
        self._findings = []

    def add(self, severity, kind, message, where=(), count=None):
        """Notes a finding.

        Args:
            severity: `"error"`, `"warning"` or `"note"`.
            kind: String, a word or two.
            message: String, a sentence.
            where: List of the files, images or classes in question. Defaults to `()`.
            count: Integer, how many they are, if `where` does not have them all.
                Defaults to `None`.
        """
        check_choice("severity", severity, (ERROR, WARNING, NOTE))
        if isinstance(where, (str, bytes)) or not hasattr(where, "__iter__"):
            raise ValueError(
                "`where` must be a list of files, images or classes. "
                f"Received: where={where!r}"
            )
        if count is not None and not is_whole(count, low=0):
            raise ValueError(
                f"`count` must be an integer of at least 0. Received: count={count!r}"
            )
        where = [str(place) for place in where]
        finding = {
            "severity": severity,
            "kind": kind,
            "message": message,
            "count": len(where) if count is None else int(count),
            "where": where,
        }
        self._findings.append(finding)

    def count(self, part, class_names, labels):
        """Notes how many images of each class a part has."""
        counts = [0] * len(class_names)
        for label in labels:
            counts[label] += 1
        self.class_counts[part] = dict(zip(class_names, counts, strict=True))

    @property
    def findings(self):
        order = (ERROR, WARNING, NOTE)
        return sorted(self._findings, key=lambda f: order.index(f["severity"]))

    @property
    def ok(self):
        """Whether the data can be used: there are no errors."""
        return not self.of(ERROR)

    def of(self, severity):
        """The findings of this severity, `"error"`, `"warning"` or `"note"`."""
        check_choice("severity", severity, (ERROR, WARNING, NOTE))
        return [f for f in self._findings if f["severity"] == severity]

    def refuse(self):
        """Raises a `ValueError` of all errors, if there are any.

        Its attribute `findings` has them with all their files.
        """
        errors = self.of(ERROR)
        if not errors:
            return
        if any(finding["kind"] == "unreadable" for finding in errors):
            # They come with bad files, and would be looked for next.
            errors += [f for f in self.of(NOTE) if f["kind"] == "hidden"]
        raised = ValueError("\n".join(_sentence(f, 20) for f in errors))
        raised.findings = errors
        raise raised

    def warn(self, stacklevel=2):
        """Warns of all warnings at once, if there are any."""
        found = self.of(WARNING)
        if found:
            warnings.warn(
                "\n".join(map(_sentence, found))
                + f"\nkrl.data.check({self.source!r}) lists everything.",
                stacklevel=stacklevel + 1,
            )

    def __str__(self):
        lines = [self.source]
        for part, counts in self.class_counts.items():
            lines.append(f"  {part}: {sum(counts.values())} images, {_shown(counts)}")
        if not self.findings:
            return "\n".join([*lines, "Nothing noteworthy."])
        rows = [("severity", "finding", "count", "what it is, and where")]
        for finding in self.findings:
            row = finding["severity"], finding["kind"], str(finding["count"])
            text = textwrap.wrap(finding["message"], 70) + _examples(finding["where"])
            rows.append((*row, text[0]))
            rows += [("", "", "", line) for line in text[1:]]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        for row in rows:
            cells = [c.ljust(w) for c, w in zip(row, widths, strict=False)]
            cells[2] = row[2].rjust(widths[2])
            lines.append("  ".join([*cells, row[3]]).rstrip())
        # Names of files need not be text.
        return as_text("\n".join(lines))

    def __repr__(self):
        numbers = [f"{len(self.of(s))} {s}s" for s in (ERROR, WARNING, NOTE)]
        return f"<DataCheck of {self.source}: {', '.join(numbers)}>"


def _shown(counts):
    texts = [f"{name}: {count}" for name, count in counts.items()]
    if len(texts) > 10:
        texts[5:-5] = [f"... ({len(counts)} classes)"]
    return ", ".join(texts)


def _examples(where, most=5):
    lines = [f"  - {place}" for place in where[:most]]
    if len(where) > most:
        lines.append(f"  ... and {len(where) - most} more")
    return lines


def _sentence(finding, most=5):
    return "\n".join([finding["message"], *_examples(finding["where"], most)])


def note_duplicates(check, parts, class_names):
    """Notes images that are there more than once, pixel for pixel.

    Args:
        check: `DataCheck`.
        parts: Dictionary from the name of a part to a list of `(place, digest, label)`,
            where `place` is the file or the index of an image.
        class_names: Sequence of strings.
    """
    first, labels = {}, {}
    for part, images in parts.items():
        across, within = {}, []
        for place, digest, label in images:
            labels.setdefault(digest, {}).setdefault(label, place)
            earlier_part, earlier = first.setdefault(digest, (part, place))
            if earlier is place:
                continue
            text = f"{place} = {earlier}"
            if earlier_part == part:
                within.append(text)
            else:
                across.setdefault(earlier_part, []).append(text)
        for earlier_part, where in across.items():
            check.add(
                WARNING,
                f"in {earlier_part} and {part}",
                f"{len(where)} of {len(images)} images of {part} are in {earlier_part} "
                "as well, pixel for pixel. Remove one of each pair, or accuracies are "
                "better than they should be.",
                where,
            )
        if within:
            check.add(
                NOTE,
                f"twice in {part}",
                f"Images of {part} that are copies of others: {len(within)}.",
                within,
            )
    conflicts = [
        ", ".join(f"{place} ({class_names[label]})" for label, place in found.items())
        for found in labels.values()
        if len(found) > 1
    ]
    if conflicts:
        check.add(
            WARNING,
            "two classes",
            f"Images in more than one class, pixel for pixel: {len(conflicts)}. "
            "Keep each where it belongs.",
            conflicts,
        )
