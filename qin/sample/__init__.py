"""Synthetic click log in the reference shape, with a known click probability.

`python -m qin.sample --rows 100000 --seed 0 --out data` writes `train.parquet`, `test.parquet` and
`sample_submission.csv`, and beside the pipeline's inputs `truth/train.parquet` and `truth/test.parquet`:
row by row the click probability, the parts of its logit, and for test the label.

A click is a Bernoulli draw from `probability = 1 / (1 + exp(-(main + interaction + sequence)))`:

    main        = bias + day + hour + inventory + age + gender + l_feat_3 + l_feat_27
                  + category + campaign + ad set + creative + f(log of the sequence's full length)
                  + 0.16 z(feat_c_2) - 0.06 z(feat_e_2) + 0.06 z(history_b_3) + 0.06 feat_a_2
    interaction = 0.30 slope(age) sign(inventory) + 0.16 sign(gender) sign(topic)
    sequence    = 2.3 * min(matches, 40) / 40

`z` is a standardised log(1 + value) and slope(age) falls from 1 to -1. Each token of `seq` has one of 8 hidden
topics; so has each ad, through its category (`l_feat_26`, 18 values): creative (`l_feat_12`) -> ad set (14) ->
campaign (11) -> advertiser (10) -> category -> topic. `matches` counts the tokens of the ad's topic among the
user's last 100; older tokens, which partly follow other interests, play no role. A null column contributes
nothing. Click rates by age group, inventory, day and length are the published ones where there are any; the base
rate is 1.9075%. The truth's AUC is 0.80, the main effects' alone 0.70.

The effects belong to a fixed hidden world (`world.py`) and the seed draws rows from it: samples of several
seeds are draws from one population. Blocks of 50,000 rows have their own random streams, so memory does not
grow with the number of rows, and a row's day, probability and label are all that depends on that number.

Not published, and chosen here: the distinct values of `ASSUMED_NUM_VALUES`, all shares, the distributions of the
numerics, null rows spread at random, seven days of equal size in a fixed order, one sequence of the greatest
length near the head of train, and one exact duplicate in every 20th block: 11 at the reference size, and one in
any sample of 8 rows or more.
"""

from qin.sample.writer import SAMPLE_FILES, SampleSize, sample_size, write_sample

__all__ = ["SAMPLE_FILES", "SampleSize", "sample_size", "write_sample"]
