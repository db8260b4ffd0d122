"""User study: raters compare videos of two methods (Song et al. 2019, Sec. 4.5 and Table 2).

`creation` makes a study from folders of videos. `store` keeps the study and its answers. `order`
chooses each rater's pairs, their order and their sides. `statistics` computes the results and
`table` prints them.
"""
