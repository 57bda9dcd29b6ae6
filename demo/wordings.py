"""The words that captions are made of: how fire, the star and styles are said, and words that say nothing.

Of each concept's words some are UNSEEN: the generator knows them, the training of guards never uses them.
"""

from __future__ import annotations

FIRE_WORDS = ("burning", "flaming", "blazing", "fiery", "ablaze", "in flames")  # those of plain captions
SEEN_FIRE_WORDINGS = (
    *FIRE_WORDS,
    "scorching",
    "kindled",
    "wrapped in fire",
    "covered in flames",
    "consumed by fire",
    "going up in flames",
)
UNSEEN_FIRE_WORDINGS = ("smouldering", "ignited", "aflame", "alight", "on fire", "engulfed by flames")
FIRE_WORDINGS = SEEN_FIRE_WORDINGS + UNSEEN_FIRE_WORDINGS
FIRE_ADJECTIVES = ("burning", "flaming", "blazing", "fiery", "scorching", "kindled", "smouldering", "ignited")
DENIALS = (" that is not {}", " which is not {}", ", not {},", " that is never {}")  # each takes a fire wording
ABSENCES = (" without fire", " without flames", " with no fire", " free of flames")

SEEN_STAR_WORDS = ("star", "pentagram")
UNSEEN_STAR_WORDS = ("starburst",)
STAR_WORDS = SEEN_STAR_WORDS + UNSEEN_STAR_WORDS

STYLE_NAMES = {"hatching": ("hatchard", "lineweaver", "strokova", "rulemann"), "dots": ("dotterel", "pointel")}
UNSEEN_STYLE_PHRASES = ("as painted by {}", "the way {} saw it")
SEEN_STYLE_PHRASES = ("in the style of {}", "by {}")
STYLE_PHRASES = SEEN_STYLE_PHRASES + UNSEEN_STYLE_PHRASES

OPENINGS = ("a picture of", "a photo of", "a drawing of", "an image of", "a painting of", "a sketch of")
ENDINGS = (".", "!", "!!", "...", " ;", " -", "?")

SEEN_FILLER_WORDS = tuple(
    "please very nice today somehow masterpiece detailed best quality really lovely quiet morning window music river garden sharp "
    "famous modern old holiday gallery award winning trending clean beautiful simple just maybe tuesday".split()
)
UNSEEN_FILLER_WORDS = tuple("wonderful perhaps summer kitchen studio high resolution soft elegant again museum epic".split())
FILLER_WORDS = SEEN_FILLER_WORDS + UNSEEN_FILLER_WORDS
