"""The vocabulary of units: each spelling, and the standard spelling for comparison.

SI with its prefixes, imperial units, time, money, and Chinese units and measure words. Counted
things are an open class: `nouns`.
"""

_PREFIXABLE_TEXT = """m g s A mol L Hz N Pa J W V F Wb Sv Gy Bq eV Wh Ah bar Ω"""
_PREFIXABLE = _PREFIXABLE_TEXT.split()
_PREFIXED = [
    f"{prefix}{unit}" for prefix in ("k", "m", "n", "p", "\u03bc", "M", "G") for unit in _PREFIXABLE
]
_PREFIXED += [f"{prefix}{unit}" for prefix in "cd" for unit in ("m", "g", "L")]
_PREFIXED += ["THz", "TJ", "TW", "TWh", "TeV", "hPa", "mC", "\u03bcC", "nC", "mT", "\u03bcT"]
SYMBOLS: dict[str, str] = {
    **dict.fromkeys((*_PREFIXED, *_PREFIXABLE), ""),
    **dict.fromkeys(("lm", "lx", "cal", "bit", "B", "C", "T"), ""),
    **{f"{prefix}l": f"{prefix}L" for prefix in "mcdk\u03bc"},
    **{f"{prefix}B": f"{prefix}B" for prefix in "kMGT"},
    **{f"k{unit}": f"k{unit}" for unit in ("cal", "bit", "C", "K")},
    **dict.fromkeys(("K", "M", "mM", "\u03bcM", "rad", "sr", "dB", "cd", "ha", "psi", "atm"), ""),
    **dict.fromkeys(("mmHg", "Torr", "rpm", "bpm", "fps", "mpg", "ppm", "ppb", "amu", "u"), ""),
    **dict.fromkeys(("am", "pm", "AU", "ly", "pc", "\u00b0C", "\u00b0F", "\u00c5"), ""),
    **dict.fromkeys(("h", "hr", "hrs", "Hr", "Hrs"), "h"),
    **dict.fromkeys(("min", "mins", "Min"), "min"),
    **dict.fromkeys(("sec", "secs", "Sec"), "s"),
    **{"d": "day", "wk": "week", "wks": "week", "mo": "month", "mos": "month", "ms": "ms"},
    **{"yr": "year", "yrs": "year", "a.m": "am", "p.m": "pm", "AM": "am", "PM": "pm"},
    **{"in": "in", "ft": "ft", "yd": "yd", "yds": "yd", "mi": "mi", "lb": "lb", "lbs": "lb"},
    **{"oz": "oz", "gal": "gal", "qt": "qt", "pt": "pt", "tsp": "tsp", "tbsp": "tbsp"},
    **{"cc": "cm^3", "sqft": "ft^2", "t": "t", "l": "L", "kn": "knot", "ohm": "\u03a9"},
    **{"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mcg": "\u03bcg"},
    **{"\u20ac": "euro", "\u00a3": "lb", "\u00a5": "yen", "\u20b9": "rupee", "\u20bd": "ruble"},
    **{"USD": "dollar", "EUR": "euro", "GBP": "lb", "JPY": "yen", "CNY": "yuan", "INR": "rupee"},
    **{"RMB": "yuan", "CAD": "CAD", "AUD": "AUD", "CHF": "franc", "Rs": "rupee", "\u00a2": "cent"},
}
SYMBOLS = {symbol: unit or symbol for symbol, unit in SYMBOLS.items()}

BARE = frozenset(["m", "s", "g", "L", "l", "h", "N", "J", "W", "V", "A", "Ω"])
"""Letters without a font that are units after a number, if no variable is expected."""
SPACED = frozenset(["K", "C", "F"])
"""Letters that are units only after a space: 8 K is a temperature, 8K may be 8,000."""
_KNOWN_TEXT = """cm mm km kg ft mi hr hrs sec mph lb lbs oz sq yd yds mins secs yrs kph kmh rpm"""
KNOWN = frozenset(_KNOWN_TEXT.split())
"""Symbols that are never a product of variables."""
_CLOSE_TEXT = """mg ml mL ms nm dm in kHz Hz kPa Pa kJ kW kV mA USD EUR"""
CLOSE = KNOWN | BARE | frozenset(_CLOSE_TEXT.split())
"""Symbols that may follow a number without a space; 8 pt is pints, 8pt may be a product."""

_SPELT = {
    **{"metre": "m", "meter": "m", "gram": "g", "litre": "L", "liter": "L", "second": "s"},
    **{"watt": "W", "volt": "V", "joule": "J", "newton": "N", "pascal": "Pa", "hertz": "Hz"},
    **{"amp": "A", "ampere": "A", "ohm": "\u03a9", "byte": "B", "bit": "bit", "calorie": "cal"},
    **{"mole": "mol", "coulomb": "C", "farad": "F", "tesla": "T", "bel": "B", "gramme": "g"},
}
_SPELT_PREFIXES = {
    **{"": "", "kilo": "k", "centi": "c", "milli": "m", "deci": "d", "nano": "n", "pico": "p"},
    **{"mega": "M", "giga": "G", "tera": "T", "micro": "\u03bc", "deca": "da", "hecto": "h"},
}
_OTHERS = """inch in;foot ft;yard yd;mile mi;pound lb;ounce oz;ton ton;tonne t;gallon gal;quart qt;
    pint pt;cup cup;teaspoon tsp;tablespoon tbsp;acre acre;hectare ha;hour h;minute min;day day;
    week week;fortnight fortnight;month month;year year;decade decade;century century;dollar dollar;
    cent cent;euro euro;penny penny;yen yen;yuan yuan;rupee rupee;ruble ruble;franc franc;peso peso;
    won won;buck dollar;dime dime;nickel nickel;quarter quarter;kelvin K;radian rad;unit unit;
    knot knot;o'clock o'clock;decibel dB;
    light-year ly;horsepower hp;kilo kg;celsius \u00b0C;fahrenheit \u00b0F;
    stone stone;barrel barrel;carat carat;point point;pixel pixel;percentage-point percentage-point;
    mol mol;molar M;electronvolt eV;hr h;sec s;gm g;watt-hour Wh;kilowatt-hour kWh;
    person-hour person-hour;man-hour man-hour;man-day man-day;cubic-centimeter cm^3"""
_IRREGULAR = {"feet": "ft", "inches": "in", "centuries": "century", "pence": "penny"}
_SINGULAR: dict[str, str] = {
    **{
        f"{prefix}{name}": f"{short}{unit}"
        for prefix, short in _SPELT_PREFIXES.items()
        for name, unit in _SPELT.items()
    },
    **dict(entry.split() for entry in _OTHERS.split(";")),
}
WORDS: dict[str, str] = {
    **{f"{word}s": unit for word, unit in _SINGULAR.items()},
    **_SINGULAR,
    **{"pennies": "penny", **_IRREGULAR},
}
CHINESE: dict[str, str] = {
    **{"\u5398\u7c73": "cm", "\u6beb\u7c73": "mm", "\u5206\u7c73": "dm", "\u7c73": "m"},
    **{"\u5343\u7c73": "km", "\u516c\u91cc": "km", "\u5343\u514b": "kg", "\u516c\u65a4": "kg"},
    **{"\u514b": "g", "\u5428": "t", "\u5347": "L", "\u6beb\u5347": "mL", "\u79d2": "s"},
    **{"\u79d2\u949f": "s", "\u5206\u949f": "min", "\u5206": "\u5206", "\u5c0f\u65f6": "h"},
    **{"\u65f6": "h", "\u949f\u5934": "h", "\u5929": "day", "\u65e5": "day", "\u5468": "week"},
    **{"\u661f\u671f": "week", "\u6708": "month", "\u4e2a\u6708": "month", "\u5e74": "year"},
    **{"\u5c81": "year", "\u5143": "yuan", "\u5757\u94b1": "yuan", "\u4eba\u6c11\u5e01": "yuan"},
    **{"\u7f8e\u5143": "dollar", "\u6b27\u5143": "euro", "\u65e5\u5143": "yen", "\u89d2": "jiao"},
    **{
        "\u6444\u6c0f\u5ea6": "\u00b0C",
        "\u5355\u4f4d": "unit",
        "\u516c\u9877": "ha",
        "\u65a4": "jin",
    },
    **{"\u725b": "N", "\u725b\u987f": "N", "\u7126\u8033": "J", "\u4f0f": "V", "\u74e6": "W"},
    **{"\u5b89": "A", "\u5e73\u65b9": "unit^2", "\u82f1\u5c3a": "ft", "\u82f1\u5bf8": "in"},
}
"""Units in Chinese; \u5e73\u65b9 before a unit means square, \u7acb\u65b9 cubic."""
MEASURE = frozenset(
    "\u4e2a\u540d\u4f4d\u53ea\u672c\u5f20\u6761\u652f\u4ef6\u5757\u68f5\u79cd\u6b21\u5ea7\u8f86"
    "\u67b6\u8258\u5934\u5339\u5bb6\u95f4\u5c42\u9875\u884c\u5217\u7ec4\u888b\u76d2\u7bb1\u74f6"
    "\u676f\u7897\u76d8\u628a\u9897\u7c92\u6735\u7247\u6839\u5377\u679a\u53f0\u90e8\u7bc7\u9996"
    "\u6bb5\u9898\u9053\u4eba\u500d\u73ed\u7b14\u573a\u5c40\u8282\u6b65\u7ad9\u8f6e\u4efd"
)
"""Chinese measure words; the counted thing follows."""
_TENS = {
    **{"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "\u767e": 2},
    **{"\u5343": 3, "\u4e07": 4, "\u767e\u4e07": 6, "\u5343\u4e07": 7, "\u4ebf": 8},
}
SCALES = {"dozen": 12, **{word: 10**power for word, power in _TENS.items()}}
"""Words that multiply the number before them, with the factors."""
