"""People compare videos of two methods, pair by pair (Song et al. 2019, Sec. 4.5 and Table 2).

`making` makes a study of folders of videos, `store` keeps it and every answer, `order` says what a
rater sees when and on which side, `statistics` computes and `table` prints what came out.
"""
