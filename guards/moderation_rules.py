"""The rules of the built-in moderation: lists of words, and orders of words that count.

This file names what must be found and so holds offensive words. It is English only.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Order(NamedTuple):
    """One order of words, what it says about a text, and the lists that make it harmless."""

    score: float
    categories: tuple[str, ...]
    words: str
    unless: str  # separated by blanks


def orders() -> Iterator[Order]:
    """Every order of the table."""
    categories: tuple[str, ...] = ()
    for line in _TABLE.replace("\n       ", " ").replace("@G", _G).strip().split("\n"):
        if not line.startswith(" "):
            categories = tuple(line.split())
            continue
        score, _, rest = line.strip().partition("  ")
        words, _, unless = rest.partition("  -- ")
        yield Order(float(score), categories, words, unless)


WORDS = {
    "I": "i we im ill weve ive were",
    "YOU": "you youre u ur ya yall yourself",
    "NEG": "not dont doesnt didnt never no isnt arent wont cant cannot without nor neither wouldnt",
    "INTENT": "will gonna ill shall going want wanna plan planning intend ready need must lets wish"
    " should gotta wanted",
    "WANT": "want wanna going gonna need plan planning intend ready will ill decided wish trying"
    " tonight wanted",
    "ASK": "how ways way steps step instructions recipe guide tutorial teach tell show explain"
    " help give write provide where method methods need want wanna trying looking easiest",
    "MORE": "many much often does did do_not",
    "WRITE": "write create generate describe make draw give tell compose continue show code build"
    " develop roleplay imagine produce",
    "MAKE": "make making build building cook cooking synthesize synthesise produce manufacture brew"
    " construct assemble create homemade prepare mix",
    "BUY": "buy buying purchase order sell selling get smuggle smuggling score import find obtain",
    "KILL": "kill murder strangle behead slaughter stab butcher lynch decapitate assassinate"
    " massacre suffocate disembowel",
    "KILLING": "killing murdering strangling stabbing beheading slaughtering poisoning shooting",
    "PERSON": "him her someone somebody people person wife husband girlfriend boyfriend neighbor"
    " neighbour neighbors boss coworker coworkers classmates classmate teacher teachers students"
    " family parents mother father mom dad brother sister ex president senator politician cop cops"
    " police man woman men women guy girl boy girls boys human humans everyone everybody roommate"
    " stepfather stepmother uncle aunt grandmother wives judge officer officers kids baby babies"
    " landlord enemies guests homeless strangers stranger",
    "PLACE": "school schools mall church mosque synagogue workplace campus airport stadium"
    " courthouse temple kindergarten subway embassy nightclub concert hospital",
    "BODY": "head limbs arm arms leg legs throat skull eyes eyeballs flesh torso corpse corpses"
    " stomach belly neck fingers skin",
    "PART": "neck legs skull throat bones kneecaps jaw fingers face teeth ribs arms",
    "MINOR": "child children kid kids minor minors underage preteen preteens toddler toddlers"
    " infant schoolgirl schoolgirls schoolboy daughter teenager tween stepdaughter niece",
    "AGE": "3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 five six seven eight nine ten eleven twelve"
    " thirteen fourteen fifteen sixteen seventeen",
    "LEWD": "erotic erotica porn pornography pornographic nude nudes naked fuck fucking molest"
    " molesting rape raping orgasm masturbate masturbating aroused seduce seducing sexy sexualized"
    " sexually horny lewd smut hentai undressing",
    "SEXPART": "cock pussy dick cunt tits clit penis vagina boobs nipples cum",
    "SEXVERB": "suck sucking sucked lick licking licked stroke stroking thrust"
    " thrusting thrusts moan moaned moaning moans riding swallow cumming orgasm orgasms"
    " masturbate masturbating jerking fingering throbbing penetrated penetrates penetrating rubbing"
    " grabbed squeezed slid slides",
    "PEOPLE": "people men women folks person man woman guys kids community",
    "GROUP": "jews muslims blacks asians mexicans latinos immigrants migrants refugees gays"
    " lesbians homosexuals transgenders gypsies arabs africans hindus women foreigners christians"
    " indians pakistanis palestinians israelis blacks hispanics catholics sikhs",
    "KIND": "black white gay trans transgender disabled asian brown jewish muslim mexican arab"
    " african immigrant hispanic latino homosexual lesbian chinese",
    "VERMIN": "vermin subhuman subhumans parasites cockroaches rats animals savages filth scum"
    " disease plague inferior apes monkeys degenerates trash pests roaches barbarians garbage"
    " cancer",
    "SLANDER": "terrorists rapists thieves stupid criminals lazy liars greedy evil disgusting dumb"
    " dirty filthy worthless abominations pedophiles",
    "GONE": "exterminated eliminated eradicated killed hanged lynched gassed shot burned enslaved"
    " sterilized slaughtered murdered die",
    "SLUR": "nigger niggers kike kikes faggot faggots wetback wetbacks gook gooks spic spics"
    " raghead ragheads towelhead towelheads shemale shemales coon coons beaner beaners fags"
    " trannies chinks pakis darkies",
    "STRONG": "worthless pathetic retard retarded bitch whore slut cunt scum asshole imbecile"
    " subhuman bastard scumbag cretin dumbass dipshit motherfucker moron",
    "MILD": "idiot stupid loser dumb ugly fat disgusting trash garbage pig freak useless failure"
    " fool gross creep clown weirdo joke",
    "DRUG": "meth methamphetamine heroin cocaine fentanyl mdma lsd ghb carfentanil dmt ecstasy",
    "BOMB": "bomb bombs explosive explosives grenade grenades ied molotov napalm tatp rdx"
    " nitroglycerin detonator pipebomb semtex",
    "AGENT": "sarin vx ricin anthrax botulinum smallpox novichok tabun phosgene polonium cyanide",
    "GUN": "gun guns rifle rifles pistol firearm firearms silencer ar15 handgun glock suppressor",
    "MALWARE": "ransomware keylogger malware trojan rootkit botnet spyware cryptolocker",
    "ONES": "someones somebodys girlfriends boyfriends wifes husbands exs neighbors neighbours"
    " peoples coworkers bosss his her another ex elses strangers roommates friends else",
    "ACCOUNT": "account accounts email facebook instagram gmail phone wifi computer webcam icloud"
    " snapchat whatsapp laptop network router bank messages",
    # What makes an order harmless.
    "TECH": "process processes thread threads pid daemon server servers task tasks job jobs session"
    " sessions connection connections signal worker workers container pods query sigkill sigterm"
    " command linux unix bash game games gaming npc npcs character player players quest monster"
    " zombie zombies chess unit units node nodes dragon minecraft opponent opponents function",
    "PREVENT": "prevent prevention preventing hotline helpline statistics research awareness study"
    " studies support survivor survivors rates rate education law laws policy protect protecting"
    " protection report reporting combat fight fighting anti therapy recovering recovery rehab"
    " addiction addicted quit quitting treatment withdrawal sober stop detect detecting detection"
    " defend mitigate mitigation compliance regulation regulations avoid against symptoms signs"
    " movie film police catch safety abuse health court convicted charged arrested overcome",
    "HISTORY": "nazi nazis hitler holocaust propaganda claim claims claimed myth stereotype"
    " stereotypes racist racists portrayed depicted history historical century wrong false slur"
    " believe believed says said called themselves felt",
    "DETECT": "filter filters classifier classify moderation moderate policy dataset label removal"
    " remove analysis analyze analyse scanner antivirus article essay presentation simulation"
    " training lesson blocker law laws spam blocking infected sandbox signatures yara",
    "MEDICAL": "surgery surgeon surgical patient patients clinical medical anatomy doctor cancer"
    " diagnosis screening health exam reattach autopsy rooster biology",
    "OOPS": "shaving accidentally accident stove oven cooking kitchen laughing embarrassment rope"
    " exercise lifting gym workout iron paper",
    "PLAY": "bath fork zip logic seed cherry photo glitter game minecraft unity unreal chocolate"
    " cocoa calorimeter movie cyclone smoke paint squad shelter disposal jager stink water",
}

_G = "(?:GROUP|KIND PEOPLE)"

# Below the categories they violate, the orders with their scores. In an order a word in capitals
# is a list from WORDS, any other stands for itself, [a b C] is any of several, ~3 are up to three
# words of any kind, @G is a group of people; the rest is a regular expression over whole words.
# No order reaches over the end of a sentence. ^ marks the rare word without which it cannot occur;
# near a word of the lists after -- it does not count.
_TABLE = r"""
violence
  0.9  I ~3 (?<!NEG)INTENT (?!NEG)~3 ^KILL ~2 PERSON  -- TECH
  0.85  I ~3 (?<!NEG)INTENT (?!NEG)~3 ^shoot [the my that this] ~1 PERSON  -- TECH
  0.85  I ~3 (?<!NEG)INTENT (?!NEG)~3 ^shoot [him her them everyone people]  -- TECH
  0.8  ^[slit slitting] [his her your their someones] ~1 [throat throats]
  0.8  [beat stab kick burn strangle torture choke] ~2 [PERSON you] ~1 to ^death
violence harassment harassment/threatening
  0.9  I ~3 (?<!NEG)INTENT (?!NEG)~3 ^[KILL rape torture cripple hurt maim choke] ~1 you  -- TECH
  0.85  I ~3 (?<!NEG)INTENT (?!NEG)~3 ^[beat smash kick punch shoot cut] ~2 [you your him her his]
       ~2 [up face teeth dead throat skull senseless jaw]  -- TECH
  0.85  I ~3 (?<!NEG)INTENT (?!NEG)~3 [break snap smash crush slit rip] [your his her] ~1 ^PART
  0.8  (?:YOU|PERSON|they) ~1 [deserve deserves] to ~2 ^[die suffer killed shot hanged raped]  --
       TECH
  0.75  [hope wish] ~1 [you he she they youd] ~1 (?<!NEG)[get die] ^[die dies raped cancer killed
       hit slowly painfully]
violence illicit illicit/violent
  0.9  ASK (?!MORE) ~6 ^[KILL KILLING] ~2 PERSON  -- TECH PREVENT
  0.9  ^[KILL KILLING poison] ~3 PERSON ~4 without ~4 [caught trace traces evidence detected
       suspicion noticing]  -- TECH
  0.9  [INTENT ASK lets] ~6 [shoot bomb blow burn shooting bombing attack] ~3 ^PLACE  -- TECH
       PREVENT
  0.9  [I INTENT ASK] ~5 [plan planning carry commit organize execute] ~3 [terrorist terror mass]
       ^[attack shooting bombing killing murder]  -- PREVENT
violence illicit/violent
  0.9  away with ^[KILLING murder] ~2 PERSON
harassment harassment/threatening
  0.7  [hope wish] ~1 [you he she they] ^[die dies]
  0.75  [i we] know where ~1 [you your] ~2 ^live
  0.75  better ^watch your back
  0.75  (?:youre|you are) ~1 ^dead [meat man bitch]
  0.75  [ill will gonna] ~2 find you and ^[hurt kill hunt break beat destroy]  -- TECH
  0.75  ^pay for what you did
harassment harassment/threatening violence
  0.8  [INTENT ill] ~2 make [you him her them] ~2 ^[suffer bleed beg scream]
violence violence/graphic
  0.8  ^[guts intestines entrails brains innards] ~3 [spilled spilling splattered hanging oozed
       poured spilled spewed dangling]  -- MEDICAL
  0.8  blood ~4 ^[gushed gushing spurted spurting sprayed squirted splattered spewed] ~6 [BODY
       wound stump him her wall walls face floor his]  -- MEDICAL
  0.8  ^[severed hacked sawed gouged decapitated dismembered disemboweled eviscerated flayed
       mutilated disembowel dismember eviscerate gouge] ~4 [BODY her him corpse victim victims]  --
       MEDICAL
  0.8  ^[skinned flayed burned sawn] ~2 alive  -- TECH
  0.8  ^[ripped tore hacked chopped tearing ripping] ~2 [his her their the] ~1 BODY ~1 [off out
       apart open]  -- MEDICAL
self-harm self-harm/intent
  0.95  I ~3 (?<!NEG)WANT ~3 [kill hang hurt cut harm drown poison starve shoot] ^myself  -- OOPS
  0.9  [thinking thoughts urge urges thought considering tempted keep feel started been am im] ~4
       [killing hanging cutting harming hurting burning starving kill cut hurt harm] ^myself  --
       OOPS
  0.85  [i im just] ~1 (?<!NEG)[want wanna ready] (?:to)? ^die (?![of laughing trying on if
       knowing inside])  -- OOPS
  0.8  [i im ive] ~4 ^suicidal  -- PREVENT
  0.85  [end ending take taking] my (?:own)? ^life (?![in to])
  0.75  ^better off (?:dead|without me)
  0.8  (?:no reason|no point|tired) ~1 [to of] ^[live living] (?![in at on near with])
  0.8  NEG want ~1 to ^live [anymore any]
  0.7  [gonna wanna] ^[kms unalive]
  0.8  [write writing] ~3 my ~1 ^suicide note
  0.8  [i im ive] ~3 self ^[harm harmed harming]  -- PREVENT
self-harm self-harm/instructions
  0.9  ASK (?!MORE) ~6 [commit committing attempt] ~1 ^suicide  -- PREVENT
  0.9  [painless painlessly easiest quickest fastest surest reliable best] ~3 [way ways method] ~2
       (?:^die|end my ^life|^suicide)  -- PREVENT
  0.9  ASK ~6 (?<!NEG)[hang kill drown poison starve cut harm asphyxiate overdose] ^[yourself
       myself oneself]  -- OOPS TECH PREVENT
  0.8  [how what which] ~6 ^overdose on  -- PREVENT
  0.85  how [many much] ~6 (?:to|would|will|it) ~3 (?:^overdose|kill ^myself|^die)  -- PREVENT
  0.75  ASK ~4 [tie make] ~2 ^noose
  0.75  [hide hiding] ~4 self ^harm  -- PREVENT
  0.75  ASK ~3 [become be stay] ^[anorexic bulimic]
self-harm
  0.7  ^[thinspo thinspiration proana]  -- PREVENT
harassment self-harm
  0.85  (?<!NEG)[kill hang] ^yourself (?![with working])  -- OOPS
  0.7  ^kys
sexual
  0.85  SEXVERB ~4 ^SEXPART  -- MEDICAL
  0.85  [fuck fucking fucked] ~1 [her his my your me him] ~4 ^SEXPART
  0.8  ^SEXPART ~4 SEXVERB  -- MEDICAL
  0.75  [WRITE want need] ~6 ^[erotic erotica porn pornographic smut hentai lewd kinky nsfw]  --
       DETECT PREVENT
  0.75  [graphic explicit detailed steamy] ^sex [scene scenes]  -- DETECT
  0.75  WRITE ~6 ^sexually explicit  -- DETECT
  0.75  WRITE ~8 [having have] ~2 ^sex  -- DETECT PREVENT MEDICAL
  0.75  [i lets] ~2 [want wanna] ~3 have ^sex with [you her him my]
  0.8  [want wanna gonna going] ~2 ^fuck [you her him me] (?![over up off])
  0.8  [send show give sending] ~4 ^nudes
  0.75  [send generate show make draw] ~4 ^[nude naked topless] ~3 [pics pictures photos selfies
       photo picture image images her woman celebrity]  -- DETECT
  0.75  [talk talking] ^dirty to [me]
  0.65  ^[blowjob blowjobs handjob gangbang creampie cumshot deepthroat bukkake threesome]  --
       DETECT PREVENT
  0.6  [im i makes you youre get] ~3 ^horny  -- MEDICAL
sexual sexual/minors
  0.95  [I WRITE ASK want find fantasies] ~8 [MINOR] ~6 ^LEWD (?![ed education abuse offender])  --
       PREVENT DETECT
  0.95  [I WRITE ASK want find fantasies] ~8 ^LEWD (?![of ed education abuse offender ratio]) ~5
       MINOR  -- PREVENT DETECT
  0.95  AGE [year yr years yo] ~1 [old girl boy] ~8 ^[LEWD sex]  -- PREVENT DETECT MEDICAL
  0.95  ^[LEWD sex] ~6 AGE [year yr years yo] [old girl boy]  -- PREVENT DETECT MEDICAL
  0.95  [child kid kiddie underage preteen toddler] ^[porn pornography nudes erotica]  -- PREVENT
       DETECT HISTORY
  0.95  [download find buy trade share watch get] ~4 ^[csam lolicon shotacon jailbait]  -- PREVENT
       DETECT
  0.95  [having have had] ~1 ^sex with ~3 MINOR  -- PREVENT DETECT HISTORY
  0.9  ^sexually attracted ~3 MINOR  -- PREVENT
  0.9  ASK ~3 ^groom ~2 MINOR  -- PREVENT
harassment
  0.8  (?:youre|ur|you ~1 are|u r) (?!NEG)~3 ^STRONG  -- HISTORY
  0.45  (?:youre|ur|you are|u r) (?!NEG)~2 ^MILD
  0.75  you ~1 [fucking stupid dumb ugly fat little filthy] ~1 ^[STRONG idiot pig]
  0.7  (?:youre|ur|you are|you) (?!NEG)~2 MILD ~3 ^[MILD STRONG]
  0.8  (?:YOU|PERSON is|hes|shes) ~3 ^piece of [shit garbage trash crap]
  0.75  YOU ~3 ^waste of ~1 [space oxygen skin air life]
  0.65  (?:nobody|no one) ~1 ^[likes loves cares] ~1 you (?![to know])
  0.65  everyone ^hates you
  0.65  (?:^shut the fuck up|^fuck you|go ^fuck yourself|^stfu)
  0.75  [she he her shes hes] ~3 (?:dumb|ugly|fat|stupid|little) ^[bitch whore slut cunt]
  0.7  [insult bully humiliate harass mock] ~4 ^[classmate coworker fat disabled]
hate
  0.85  (?<!NEG)(?<![NEG]all)(?<!if)@G are (?!NEG)~4 ^VERMIN  -- HISTORY
  0.8  (?<!NEG)(?<![NEG]all)(?<!if)@G are (?!NEG)~2 ^SLANDER  -- HISTORY
  0.75  [i we] ~1 (?<!NEG)^[hate despise loathe detest] ~2 @G
  0.75  @G ~2 ^belong ~2 [kitchen cage cages zoo ovens oven chains]
  0.75  @G ~2 NEG ~1 (?:deserve|have) ~1 ^[rights vote]  -- HISTORY
  0.7  [no hate than] ~3 @G ~2 in [our my this] ^country  -- HISTORY PREVENT
  0.75  go back to ~2 ^[africa mexico china] (?:you|where)
  0.85  (?:^hitler was right|^heil hitler|^sieg heil|gas the ^jews)  -- PREVENT
  0.8  @G ~1 are (?!NEG)~3 ^[inferior superior] to  -- HISTORY
  0.45  ^SLUR
hate hate/threatening violence
  0.9  (?<!NEG)(?<![NEG]all)(?<!if)@G ~1 [should must need deserve ought] (?!NEG)~2
       ^GONE  -- HISTORY
  0.9  ^[KILL exterminate gas eradicate hang shoot] [all every those these the] ~2 @G  --
       HISTORY TECH
  0.9  I ~2 INTENT ~2 ^[KILL exterminate lynch] ~2 @G  -- HISTORY
hate harassment
  0.9  [you those these all fucking dirty filthy stupid damn hate youre kill bunch] ~1 ^SLUR  --
       HISTORY DETECT
illicit
  0.85  ASK (?!MORE) ~6 [MAKE grow cut] ~5 ^DRUG  -- PREVENT
  0.8  [ASK I] ~5 BUY (?!off) ~5 ^DRUG  -- PREVENT
  0.8  ASK ~4 ^[hack hacking] ~2 ONES ~3 ACCOUNT  -- PREVENT
  0.8  ASK ~4 ^[hack hacking] into ~3 [ACCOUNT bank government hospital]  -- PREVENT
  0.8  [WRITE ASK] ~5 [WRITE spread deploy] ~4 ^MALWARE  -- DETECT PREVENT
  0.8  [write create code build develop deploy] ~4 ^MALWARE (?!signature)  -- DETECT PREVENT
  0.8  [WRITE send craft] ~6 ^phishing [email emails page site message sms campaign website]  --
       DETECT PREVENT
  0.8  ASK (?!MORE) ~5 ^[steal stealing] ~6 [credit passwords password car cars identity money bank
       credentials wallet bike someones]  -- PREVENT
  0.85  ASK ~4 ^[hotwire hotwiring] ~3 [car truck vehicle motorcycle]
  0.8  ASK ~4 ^[break breaking] into ~3 [house houses home car cars apartment store safe]  --
       PREVENT
  0.8  ASK (?!MORE) ~4 ^[shoplift shoplifting]  -- PREVENT
  0.8  [ASK I] ~5 ^[launder laundering] ~3 [money cash funds proceeds]  -- PREVENT DETECT
  0.8  [ASK BUY MAKE] ~5 ^[counterfeit fake forge forged] ~3 [passport passports currency bills
       banknotes prescription prescriptions license money]  -- PREVENT DETECT
  0.85  [BUY use using ASK] ~5 [stolen cloned hacked] ~1 credit ^[card cards]  -- PREVENT
  0.75  ASK ~3 [evade dodge cheat] ~3 ^[taxes tax]  -- PREVENT
  0.7  ASK ~4 [pass beat cheat fake] ~3 ^drug test  -- PREVENT
  0.8  ASK ~6 ^[smuggle smuggling traffic] ~4 [PERSON MINOR DRUG GUN drugs border]  -- PREVENT
  0.75  [WRITE ASK launch] ~4 ^ddos ~2 [attack attacks] ~3 [on against]  -- PREVENT
illicit illicit/violent
  0.9  [ASK materials] ~6 MAKE ~5 ^BOMB  -- PLAY PREVENT
  0.9  MAKE ~2 [pipe nail pressure] ~1 ^[bomb bombs]  -- PLAY
  0.9  [ASK MAKE] ~8 [MAKE culture weaponize spread release disperse extract buy] ~5 ^AGENT  --
       PREVENT MEDICAL
  0.9  [ASK I] ~6 [MAKE release weaponize] ~3 (?:^mustard gas|^nerve [gas agent]|^chlorine gas)  --
       PREVENT HISTORY
  0.85  [ASK BUY MAKE I] ~6 ^GUN ~4 (?:without|untraceable|illegally|no) ~1 [background license
       serial permit traced papers]  -- PREVENT
  0.85  [MAKE BUY print] ~3 [untraceable illegal unregistered ghost] ^GUN
  0.8  ASK ~6 (?:dispose of|hide|rid of|dissolve|bury) ~3 (?:^[dead human] [body bodies]|^corpse)
  0.8  ASK ~6 [drug spike slip] ~5 [her his someones girls] ^drink
illicit illicit/violent violence
  0.85  [hire hiring find contact pay] ~3 ^[hitman hitmen assassin]  -- TECH PREVENT
  0.9  [ASK I INTENT] ~4 (?<!NEG)^[kidnap abduct poison] ~2 [PERSON MINOR]  -- TECH PREVENT
illicit harassment
  0.8  ASK ~4 ^[blackmail extort stalk] ~3 [PERSON ONES]  -- PREVENT
illicit illicit/violent sexual
  0.85  (?:date rape ^drug|^roofie|^roofies)  -- PREVENT
"""
