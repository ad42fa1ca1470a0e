"""Metrics where other people show them: in a registry of theirs, and in the files that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from preftilt.server.metrics import Metrics
from preftilt.testing.toy import ToyEngine

COUNTING = """
from prometheus_client import REGISTRY
from preftilt.server.metrics import Metrics
from preftilt.testing.toy import ToyEngine

metrics = Metrics(ToyEngine(), REGISTRY)
metrics.candidates.inc(3)
metrics.admitted.inc()
"""


def test_they_stand_in_the_registry_that_somebody_else_shows():
    registry = CollectorRegistry()
    metrics = Metrics(ToyEngine(), registry)
    metrics.candidates.inc(3)
    with metrics.admitted.track_inprogress():
        assert registry.get_sample_value("preftilt_admitted") == 1
    assert registry.get_sample_value("preftilt_admitted") == 0
    assert registry.get_sample_value("preftilt_candidates_total") == 3
    assert metrics.text() == generate_latest(registry)


def test_what_processes_share_by_files_has_all_of_them(tmp_path: Path):
    """Counters, and the gauge, too: it is counted, not asked for in the process that shows it."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNTING], env=environment, check=True, timeout=300)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    assert registry.get_sample_value("preftilt_candidates_total") == 6
    assert registry.get_sample_value("preftilt_admitted") == 2
