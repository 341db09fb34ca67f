"""Mutants of small demonstration files: each loads as h5py reads it, or is a DatasetError."""

from __future__ import annotations

import pytest

from tests.faults.hdf5_fuzzing import counts, fuzz

pytestmark = pytest.mark.faults

FOUND_ONCE = (53, 387, 985, 1226, 1889, 2802, 7957)
"""Mutants with which libhdf5 hung or crashed, or was contradicted, before the checks."""


@pytest.mark.timeout(1200)
def test_mutants_load_as_they_are_or_are_refused(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a crash, a hang, a traceback, or values and lengths that are not in the file."""
    mode = request.config.getoption("--faults")
    findings = fuzz([*FOUND_ONCE, *range(10_000, 12_000 if mode == "long" else 10_200)])
    assert {f.file: f for f in findings if f.ended not in ("loaded", "refused")} == {}
    ends = counts(findings)
    with capsys.disabled():
        print(f"\n{len(findings)} mutants, {ends['loaded']} loaded, {ends['refused']} refused")  # noqa: T201
    assert min(ends.values()) > len(findings) // 10
    assert max(finding.seconds for finding in findings) < 2.0
    assert max(finding.bytes for finding in findings) < 200 << 20
