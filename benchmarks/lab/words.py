"""The word lists of the planted records. People, companies and towns are invented."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Abrelle Aldwen Arvika Belorin Brenika Calvorn Cassitha Corwyth Dalmira Delvon Dorisel Edrane "
    "Elsabry Emrith Faldora Ferrant Galvea Gessick Halvane Hestrid Idrelle Ilvorn Jassoly Jorveth "
    "Kelmira Korvane Lesandry Lorvick Maldwyn Merisol Nalvery Nordeth Olvanna Orrick Pellwyn "
    "Perisand Quorren Ravelle Rosmund Selvory Sorrith Talwena Tessick Ulvane Veldora Wendrith "
    "Yorvane Zelmira"
)
LAST_NAMES = _words(
    "Abbermoor Aldersley Ashvale Barrowick Bellthorne Brackwell Calderby Copperholt Crowmere "
    "Dunwarrow Eastmarch Elderwick Fallowgate Fernsby Gallowhill Greymantle Halloway Harrowdale "
    "Ivorsen Jarnmoor Kestrelby Kingsmarrow Larkmere Lindhollow Marrowby Millstrand Netherfold "
    "Northwick Oakenshaw Otterby Pellgrave Quillmarsh Ravensley Rookwater Saltmarsh Silverby "
    "Stonewick Tarnfield Thistlewood Umberly Vanterpool Westermark Whitlowe Winterbourn Yarrowby "
    "Zennorvale Holmgarth Dravencote"
)
TOWNS = _words(
    "Amberford Brindlehaven Cinderwick Dapplemoor Eldermouth Foxgate Gannet-Bay Hollowmere "
    "Inglebrook Juniper-Hill Kettlestone Lanternby Mossbridge Nightmarsh Orchardton Pebblecombe "
    "Quarrydale Redwater Sandling Thornquay Underbarrow Violet-Cross Wrenfield Yewminster"
)
TRADES = _words(
    "baker binder brewer carver chandler cooper courier drover dyer farrier fuller gilder glazier "
    "joiner mason miller painter potter roofer saddler smith tanner turner weaver"
)
STREETS = _words("Road Lane Street Row Hill Court Walk Gate Close Way")
ADJECTIVES = _words(
    "amber ancient bitter blue bold brass bright broken calm cold copper crooked dark distant dry "
    "dusty early empty faint fallen frozen gentle golden gray green heavy hidden hollow idle iron "
    "late little lonely long lost mellow misty narrow old pale patient plain proud quiet rapid red "
    "rough rusty sacred salt sharp silent silver slow small solemn stern sudden sweet tall tired "
    "velvet warm weary white wild"
)
NOUNS = _words(
    "anchor anvil apple arrow badger basket beacon bell bird boat bridge candle castle chain clock "
    "cloud coat crow crown dagger door drum eagle ember falcon feather fiddle flame forest fox "
    "garden gate goat hammer harbor harp hawk heron horse island kettle key ladder lamp lantern "
    "letter lion mirror moon needle oak otter owl paddle pearl plow raven ribbon river rose sail "
    "shadow spider star stone stove swan table thistle thread tiger tower turtle violin wagon "
    "well wheel willow wind wolf"
)
VERBS = _words(
    "answers asks borrows breaks buries calls carries catches climbs counts covers crosses draws "
    "drops fears feeds finds follows forgets gathers greets guards hears hides holds keeps leads "
    "leaves lifts loses marks meets mends misses needs offers opens paints passes praises "
    "remembers scatters seeks sells sends shakes shuts steals tells trusts turns visits wakes "
    "warns watches"
)
PLACES = _words(
    "attic barn cellar chapel city court desert field harbor hill inn kitchen market marsh meadow "
    "mill mountain north orchard plain quarry road shore south square stable swamp tavern valley "
    "village wood yard"
)
LINES = (
    "the {a} {n} {v} the {b} {m}",
    "no {a} {n} {v} the {m} of the {p}",
    "when the {n} {v} the {a} {m} in the {p}",
    "a {n} from the {p} {v} and {w} the {m}",
    "and the {a} {n} {v} what the {m} {w}",
    "who {v} the {a} {n} {w} the {b} {m}",
    "in the {p} the {n} {v} a {a} {m}",
    "so the {n} {v} the {p} and {w} the {b} {m}",
)
