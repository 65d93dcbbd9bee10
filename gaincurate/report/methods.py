"""How each kind of figure is made, in words, for whoever reads the report."""

from __future__ import annotations

METHODS = {
    "correlation": (
        "Spearman's rank correlation over the rows that have both columns, ties at their mean rank."
    ),
    "interval": (
        "95 % over prompts, by the infinitesimal jackknife, which is what the bootstrap over prompts tends "
        "to: each row's influence on the figure, that on the others' ranks included; for correlations on "
        "Fisher's scale, for ratios on the logarithm's. Intervals hold one at a time."
    ),
    "given_length": (
        "Partial correlation of the ranks given the ranks of question length: what is left if length acts on "
        "both in one direction."
    ),
    "within_length_bins": (
        "Ranks inside bins of about equally many prompts of like length (20, fewer for fewer than 1,000 "
        "rows), as fractions of the bin's rows, correlated over all bins together: a bin weighs by its "
        "rows. Nothing is assumed of how length acts."
    ),
    "within_groups": (
        "The same inside groups (each source or task): a group weighs by its rows, and one in which a column "
        "is constant adds nothing."
    ),
    "given_length_within_groups": (
        "Partial correlation given length, all three ranked inside groups. With the next one it decides "
        "whether a signal tells more: both intervals must exclude 0 on the same side, at a level at which "
        "all looks (signals times targets) together are right 95 % of the time (Bonferroni). Without groups "
        "given_length and within_length_bins decide."
    ),
    "within_length_bins_and_groups": "Ranks inside bins of like length of each group, correlated over all "
    "of them.",
    "eta_squared": (
        "Correlation ratio of the ranks: the share of their variance that lies between groups. A random "
        "column has (groups - 1) / (rows - 1) on average."
    ),
    "lift": (
        "Mean p (1 - p) of the tenth of the prompts at one end, over the mean of all: 1 is a random batch. "
        "Rows at the border count in part. A column that was made of the same rollouts is not judged by "
        "them."
    ),
    "p(1-p)": (
        "G / (G - 1) times y (1 - y) for G rollouts of which the share y was right: without bias for "
        "rollouts that are right or wrong."
    ),
    "ceiling": (
        "The square root of the share of the observed rates' variance that is not sampling noise: the "
        "highest Pearson correlation that a perfect prediction could show. Rank correlations have a "
        "similar limit."
    ),
    "explained": (
        "Correlation ratio of the signal's ranks over bins of like length: what length says of it, in "
        "whatever form."
    ),
    "hygiene": (
        "Duplicates are rows with the messages of an earlier row, but for white space, upper case and how "
        "Unicode composes characters; answers do not count. `gaincurate hygiene` has every check's rows and "
        "finer options."
    ),
    "top_shared": "Of the tenth with the highest values in one set, the share that is in the other's too.",
}
"""By the name of a field or a figure."""
