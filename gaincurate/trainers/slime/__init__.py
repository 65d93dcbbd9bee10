"""slime follows a run: the data source and the report that its flags name."""

from gaincurate.trainers.names import from_live

__getattr__ = from_live(__name__, "slime 624b824a8 (2026-08-21)", "RunDataSource", "report")
