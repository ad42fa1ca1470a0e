"""Training of autoregressive reward models: pairs in, an adapter's folder out (``docs/how-to/training.md``).

::

    from preftilt.train import TrainSettings, train
    train("pairs.jsonl", Path("out/arm"), TrainSettings(method="parm", model="demo"))
"""

from preftilt.train.settings import TrainSettings
from preftilt.train.start import TrainResult, train

__all__ = ["TrainResult", "TrainSettings", "train"]
