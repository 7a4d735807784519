"""The words that the grammar knows: closed classes whole, open classes as far as they decide."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def either(words: frozenset[str] | str) -> str:
    """A regular expression of any of these words, the longest first; "_" stands for a space."""
    listed = words.split() if isinstance(words, str) else words
    return "|".join(sorted((word.replace("_", " ") for word in listed), key=len, reverse=True))


ARTICLES = words("a an the some any this that these those my your his her its our their another")
OWNERS = {"him": "man", "her": "woman", "them": "people", "me": "person", "he": "man"}
OWNERS |= {"she": "woman", "they": "people"}
IT = words("it this that")

COLOURS = words(
    "red orange yellow green blue purple violet pink brown black white grey gray silver gold "
    "golden "
    "beige turquoise teal cyan magenta maroon navy crimson scarlet lavender lime olive tan ivory "
    "bronze copper colorful colourful multicolored rainbow-colored transparent blonde blond"
)
MATERIALS = words(
    "wood wooden glass metal metallic stone marble plastic leather brass steel iron concrete brick "
    "ceramic porcelain crystal diamond velvet silk wool woolen denim bamboo ice chocolate cardboard"
)
ADJECTIVES = (
    COLOURS
    | MATERIALS
    | words(
        "big bigger small smaller large larger huge tiny tall taller short shorter long longer "
        "wide "
        "wider narrow thick thin thinner fat fatter old older young younger new newer ancient "
        "modern "
        "dark darker bright brighter pale shiny glossy matte dull clean dirty wet dry hot cold "
        "frozen "
        "happy happier sad angry scared surprised asleep awake alive dead broken open closed empty "
        "full round square rectangular striped plaid checkered spotted polka-dotted fluffy furry "
        "hairy bald curly straight blurry sharp clear cloudy sunny stormy foggy snowy rainy starry "
        "beautiful ugly scary cute elegant fancy rusty muddy abandoned futuristic realistic ripe "
        "rotten raw cooked burnt messy neat smooth rough soft hard deep shallow calm rough upright "
        "naked muscular chubby skinny pregnant rich poor vintage retro visible invisible"
    )
)
SHADES = words("light dark bright pale deep neon hot pastel solid pure")
ADVERBS = words(
    "more less much very really slightly somewhat completely extra even all fully bit so"
)
NOUNS = words("left right top bottom middle center centre front back traffic street night lights")
NOUNS |= words("fire computer family grocery building ceiling wedding parking swimming dining")
# Words that look like adjectives by their ending, and are none.
NO_ADJECTIVES = words(
    "baby lady boy puppy kitty bunny body party city pony berry cherry strawberry cookie candy toy "
    "fly butterfly monkey donkey turkey jelly belly tray key sky bay hay trophy daisy lily story "
    "bed red-bed shed seaweed weed reed seed feed breed speed head bread thread jersey whiskey "
    "player fisher water flower tower sweater paper computer letter number butter burger "
    "skater surfer singer dancer farmer driver waiter teacher river deer beer tiger panther spider "
    "ladder feather leather weather shower roller fighter officer soldier helicopter skyscraper "
    "poster banner finger shoulder hammer counter pepper corner border daughter mother father "
    "brother sister person cheetah chicken kitchen garden curtain children women men oven token "
    "kitten mitten pen hen topic mosaic music fabric frisbee day boy's teddy laundry jewelry "
    "pottery "
    "fish dish radish polish goldfish jellyfish starfish "
    "balcony factory library battery history belly bakery scenery grocery fairy ferry entry country"
)
ING_NOUNS = words(
    "ring king string wing ceiling building painting clothing earring lightning wedding "
    "parking pudding drawing sling swing spring thing evening morning railing awning icing "
    "frosting topping dressing stuffing sibling duckling dumpling lettering writing "
    "baking"
)
ENDINGS = ("y", "er", "ed", "en", "ful", "ish", "less", "ous", "ic", "ive", "able", "like")

VERBS = words(
    "be become look appear seem have wear hold carry ride eat drink smile laugh cry frown jump run "
    "walk sit stand lie sleep fly swim dance sing play read write face point wave turn open close "
    "bloom glow shine burn melt bark bite chase climb fall float grow hang kiss hug kick lean lick "
    "move pose raise roll say show skate ski stare surf talk throw catch wink yawn go disappear "
    "vanish match resemble contain use drive fight cook fish bend blink crouch kneel rest relax "
    "stick snow rain consist turn_into leave do get watch stretch howl roar spread blow take "
    "pass stop"
)
HOLDING = "wear wearing hold holding carry carrying have having ride riding sport sporting"
USING = "eat eating drink drinking read reading play playing use using kick kicking throw throwing "
USING += "catch catching push pushing pull pulling drive driving chase chasing"
GONE = "disappear vanish go_away leave go be_gone not_be_there be_invisible"

WHOLE = (
    "image picture photo photograph pic scene shot snapshot painting artwork drawing illustration "
    "everything world entire_image whole_image whole_picture whole_thing whole_scene frame view "
    "entire_picture entire_scene whole_photo entire_photo overall_image"
)
ASPECTS = (
    "style art_style artistic_style season weather time_of_day time_of_the_day time lighting "
    "lighting_conditions mood atmosphere tone color_tone colour_tone colors colours color_scheme "
    "colour_scheme color_palette palette contrast saturation brightness exposure medium era day "
    "night summer winter spring autumn fall daytime nighttime vibe temperature climate year "
    "quality "
    "resolution color_grading filter overall_style overall_color"
)
GROUND = "background backdrop surroundings scenery setting location environment landscape"
PLACES = (
    "beach forest desert city park street moon mars space jungle ocean sea meadow field garden "
    "mountain mountains lake river office kitchen library museum church castle cave classroom "
    "stadium farm island village town restaurant cafe bedroom room road highway bridge station "
    "airport school paris london rome tokyo venice egypt hawaii antarctica studio supermarket zoo "
    "playground stage spaceship underwater mountaintop rooftop cliff countryside savanna swamp "
    "hallway theater gym hospital factory canyon volcano waterfall pool snow"
)
TIMES = (
    "winter summer spring autumn fall night day daytime nighttime night-time noon midnight morning "
    "evening dawn dusk sunset sunrise twilight dark bright sunny rainy snowy foggy cloudy stormy "
    "misty overcast windy snow rain snowing raining foggy christmas halloween springtime "
    "summertime "
    "wintertime golden_hour daylight apocalyptic spooky festive lighter darker brighter warmer "
    "cooler colder dimmer moodier vintage retro colorful colourful monochrome grayscale greyscale "
    "sepia cinematic surreal dreamy futuristic photorealistic realistic cartoonish cartoony "
    "old-fashioned medieval gloomy black_and_white"
)
STYLES = (
    "style styled painting painted watercolor watercolour oil sketch sketched drawing drawn "
    "cartoon "
    "anime manga comic pixel mosaic impressionist impressionism cubist cubism surrealism pop_art "
    "render rendering 3d photograph photo poster engraving woodcut pastel charcoal crayon clay "
    "claymation lego origami ghibli pixar disney cyberpunk steampunk noir monet picasso van_gogh "
    "dali black_and_white sepia vintage filter effect illustration movie film sculpture embroidery "
    "stained_glass low_poly lowpoly polaroid postcard graffiti minimalist baroque renaissance art "
    "movie_poster video_game dream nightmare"
)
PROPERTIES = (
    "color colour colors colours material pose posture position shape size texture pattern type "
    "breed species kind style gender age appearance look angle orientation flavor flavour length "
    "height fabric design facial_expression expression"
)
GENERIC = words("animal object thing fruit vehicle person subject item food plant bird drink")
ATTRIBUTES = words("hair eyes eye skin fur hairstyle haircut face teeth ears nose lips body")
MANNERS = words("smile look expression makeover grin frown tan pose")

REPLACE = "replace substitute swap switch exchange trade"
CHANGE = "change turn transform convert morph alter modify switch transmute shift update redo edit"
REMOVE = (
    "remove delete erase eliminate get_rid_of take_out take_away cut_out crop_out clear clear_away "
    "clear_out wipe_out wipe_away omit lose hide edit_out photoshop_out paint_out clean_up strip "
    "do_away_with throw_away throw_out take_off peel_off wash_off scrape_off tear_off cut_off "
    "pull_off shave_off discard drop subtract rub_out "
    "exclude obliterate "
    "get_rid_off wipe_off ditch"
)
ADD = (
    "add add_in insert put place include draw attach stick hang set introduce create generate "
    "throw_in "
    "incorporate position plant drop_in show bring_in give_me superimpose append tie pin "
    "spread pour sprinkle"
)
GIVE = "give"
CAUSE = "make have let get"
COLOUR = "color colour paint dye tint recolor recolour repaint"
DECORATE = "decorate top garnish surround adorn"
ALTER = (
    "open close shut light extinguish raise lower bend fold peel slice cut melt freeze break crack "
    "blur sharpen enlarge shrink rotate flip straighten fix repair age brighten darken lighten "
    "whiten clean turn_on turn_off iron inflate deflate shave shorten lengthen thicken widen "
    "enhance "
    "cover dress wrap burn smash destroy light_up zoom_in_on restyle stylize stylise colorize "
    "colourise cartoonize renovate tilt unzip unfold roll_up bend smooth blacken redden polish "
    "empty rearrange resize spin double desaturate saturate restore soften simplify trim "
    "increase decrease reduce adjust boost lower intensify tone_down fill"
)
LOCATIONS = (
    "next_to in_front_of on_top_of to_the_left_of to_the_right_of at_the_top_of at_the_bottom_of "
    "in_the_middle_of in_the_center_of on_the_side_of inside_of on_either_side_of close_to on_to "
    "to into onto on in at beside near under underneath beneath below above over behind between "
    "among around inside outside across along against upon by from throughout amongst alongside "
    "within all_over"
)
EDITS = " ".join(
    (REPLACE, "change turn transform convert", REMOVE, "add insert put place make give")
)
EDITS += " let have paint color colour"
