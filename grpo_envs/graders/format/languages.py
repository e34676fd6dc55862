"""The small words of languages, and the letters of scripts.

`language.py` distinguishes languages of one script by these. Small words are articles, pronouns,
prepositions, conjunctions, forms of `be` and `have`: they do not depend on the topic.
"""

NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "sv": "Swedish",
    "da": "Danish",
    "fi": "Finnish",
    "pl": "Polish",
    "cs": "Czech",
    "ro": "Romanian",
    "hu": "Hungarian",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "id": "Indonesian",
    "sw": "Swahili",
    "ru": "Russian",
    "uk": "Ukrainian",
    "bg": "Bulgarian",
    "ar": "Arabic",
    "fa": "Persian",
    "ur": "Urdu",
    "hi": "Hindi",
    "mr": "Marathi",
    "ne": "Nepali",
    "el": "Greek",
    "he": "Hebrew",
    "th": "Thai",
    "ko": "Korean",
    "ja": "Japanese",
    "zh": "Chinese",
    "bn": "Bengali",
    "pa": "Punjabi",
    "gu": "Gujarati",
    "ta": "Tamil",
    "te": "Telugu",
    "kn": "Kannada",
    "ml": "Malayalam",
}
"""The languages that a constraint may ask for."""

OF_SCRIPT = {
    "GREEK": "el",
    "HEBREW": "he",
    "THAI": "th",
    "HANGUL": "ko",
    "BENGALI": "bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
}
"""Scripts that stand for one language here."""

CHINESE = frozenset(
    "的是了不我在有他这這们們个個和就也都到说說你她它吗嗎很与與为為那么麼什会會能没沒对對着著从從把被让讓"
)
"""Characters of the small words of Chinese, simplified and traditional."""

_LATIN = {
    "en": "the of and to in is you that it he was for on are as with his they at be this have "
    "from or had by but not what all were we when your can there an which their if do "
    "will how about then them these so her would has its who been into my than our she "
    "him me could our i a",
    "de": "der die das und ist in den von zu mit sich des auf für nicht ein eine als auch es an "
    "er so dem dass aus bei sie hat ich wir wird einen einem einer sind war im am zum zur "
    "nach über wie aber oder wenn du bist mich dich nur noch durch kann mein sein ihr man "
    "haben wurde",
    "fr": "le la les de des du et est un une dans que qui pour pas sur au aux avec il elle nous "
    "vous je ce cette ces son sa ses par plus ne se ont sont mais ou où été être avoir "
    "leur leurs était comme tout très aussi même mon ma mes d'un d'une c'est n'est qu'il "
    "l'on j'ai",
    "es": "el la los las de del y en que es un una por con para no se lo su sus al como más "
    "pero le me mi ya o este esta está son fue ha muy también hay cuando donde yo nos "
    "porque sin sobre ser entre desde todo todos nosotros ella ellos eso estos tiene",
    "it": "il lo la gli le di del della dei delle e è in che un una uno per con non si da su "
    "sono al alla come più ma anche ha ho questo questa nel nella io noi lui lei mi ci se "
    "o era molto suo sua hanno essere quando dove perché dal dalla sul sulla tutti tutto",
    "pt": "o a os as de do da dos das e em um uma que é para com não no na nos nas por se mais "
    "como mas foi ao ele ela eles são seu sua ou quando muito já eu também só pelo pela "
    "até isso entre você nós está tem há ser são este esta meu minha porque",
    "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als bij maar naar "
    "hij zij ze ik je we wij deze dit door over nog uit was kan hun heeft hebben wordt "
    "worden geen meer wat tot onze mijn of dan zo heel al",
    "sv": "och att det som en på är av för med den till inte han var jag ett om men så de har "
    "vi hon från när kan ska min mycket också vid eller nu där efter sig mot bara många "
    "detta hade finns blir varje mellan alla utan ännu",
    "da": "og at det som en på er af for med den til ikke han var jeg et om men så de har vi "
    "hun fra når kan skal min meget også ved eller nu hvor efter sig mod kun mange dette "
    "havde blev bliver være hver mellem alle uden noget",
    "fi": "ja on ei se että hän oli en mutta kun niin tai myös ovat joka ole minä sinä me he "
    "kuin jos vain nyt voi sen tämä hyvin mitä sitä ovat olen olla hänen meidän kanssa jo "
    "vielä koska sekä siellä tässä jotka kaikki paljon",
    "pl": "i w na nie z się że do jest to o jak ale za co od po tak był była czy ja my on ona "
    "oni dla są przez przy jego jej ich być już tylko może bardzo które który która oraz "
    "gdy także ten ta tego tym mnie",
    "cs": "a v na se že je to s z do o i jako ale za od po tak byl byla já my on ona oni pro "
    "jsou jsem při jeho její jejich být už jen může velmi které který která také ten ta "
    "toho tím když nebo není jak podle aby",
    "ro": "și în la de pe cu este un o să că nu din pentru mai care sau dar ca el ea ei noi au "
    "fost sunt după până când foarte acest această lui al ale ne se le am ai cum între "
    "prin fără toate toți aceste despre era",
    "hu": "a az és hogy nem is egy van volt ez meg de csak már mint ha én te ő mi ti ők még "
    "vagy nagyon azt ezt mert amikor minden lesz kell akkor ami ahol sem el ki fel között "
    "után alatt nincs nekem volna",
    "tr": "ve bir bu da de için ile çok ne o ben sen biz siz onlar ama gibi daha kadar olarak "
    "var yok değil en mi mı her şey olan sonra ki ya veya çünkü kendi bana beni onun hiç "
    "bile ise olduğu nasıl tüm oldu",
    "vi": "và là của có không cho một những các được trong với người này đó khi tôi bạn anh chị "
    "ông bà chúng ta họ rất cũng đã sẽ đang nhưng hay thì mà ở từ đến về như nếu vì nên "
    "để ra vào trên lại còn nhiều",
    "id": "yang dan di ke dari untuk dengan ini itu tidak adalah pada saya kamu dia kami kita "
    "mereka akan ada juga sudah bisa atau karena oleh seperti dalam sebagai lebih tetapi "
    "sangat anda telah tersebut hanya dapat saat bahwa para jika belum",
    "sw": "na ya wa kwa ni katika la za cha vya kuwa hii hiyo huu huo yake wake yao wao sisi "
    "mimi wewe yeye lakini pia au kama sana si hakuna kila baada kabla ili hapa huko "
    "ambayo ambao hivyo sasa tu bado mtu watu",
    # Not available to constraints; listed so that they are not mistaken for related languages.
    "no": "og at det som en på er av for med den til ikke han var jeg et om men så de har vi "
    "hun fra når kan skal min mye også ved eller nå hvor etter seg mot bare mange dette "
    "hadde ble blir være hver mellom alle uten noe",
    "ca": "el la els les de del i en que és un una per amb no es ho seu seva al com més però li "
    "em molt també hi ha quan on jo ens perquè sense sobre ser entre des tot tots "
    "nosaltres ella aquest aquesta són amb dels als",
    "gl": "o a os as de do da dos das e en un unha que é para con non no na nos nas por se máis "
    "como pero foi ao el ela eles son seu súa ou cando moi xa eu tamén só polo pola ata "
    "isto entre vostede nós está ten hai ser",
    "af": "die van en in is dat op te wees met vir nie aan daar om ook as by maar na hy sy "
    "hulle ek jy ons hierdie deur oor nog uit was kan het word geen meer wat tot my of "
    "dan so baie al",
    "sk": "a v na sa že je to s z do o i ako ale za od po tak bol bola ja my on ona oni pre sú "
    "som pri jeho jej ich byť už len môže veľmi ktoré ktorý ktorá tiež ten tá toho tým "
    "keď alebo nie podľa aby",
    "ms": "yang dan di ke dari untuk dengan ini itu tidak adalah pada saya kamu dia kami kita "
    "mereka akan ada juga sudah boleh atau kerana oleh seperti dalam sebagai lebih tetapi "
    "sangat anda telah tersebut hanya dapat bahawa para jika belum",
}
_CYRILLIC = {
    "ru": "и в не на я что он с это как а то по но они к у же вы за бы от мы все она так его из "
    "был для если ты есть или только очень мне было когда уже ещё еще нет до при чтобы "
    "быть где меня этот эта их ее её",
    "uk": "і в не на я що він з це як а то по але вони до у ж ви за би від ми все вона так його "
    "із був для якщо ти є або тільки дуже мені було коли вже ще ні при щоб бути де мене "
    "цей ця їх її та й",
    "bg": "и в не на аз че той с това как а то по но те към у же вие за от ние всички тя така "
    "го са съм е беше за ако ти има или само много ми когато вече още няма до при да бъде "
    "къде мен този тази се ще който като",
    # Not to be asked for.
    "sr": "и у не на ја да он са то како а по али они к од ми све она тако га из је био за ако "
    "ти има или само веома када већ још нема до при бити где мене овај ова се су ће који "
    "као",
    "be": "і ў не на я што ён з гэта як а то па але яны да у ж вы за бы ад мы усе яна так яго "
    "быў для калі ты ёсць або толькі вельмі мне было ўжо яшчэ няма пры каб быць дзе мяне "
    "гэты гэтая іх",
    "mk": "и во не на јас што тој со ова како а по но тие кон од ние сите таа така го се сум е "
    "беше за ако ти има или само многу ми кога веќе уште нема до при да биде каде мене "
    "овој оваа ќе",
}
_ARABIC = {
    "ar": "في من على إلى أن عن مع هذا هذه التي الذي لا ما كان كانت هو هي كل قد لم أو ثم بعد قبل "
    "بين عند حتى إن لكن أنا نحن أنت ذلك تلك إذا كما هناك ليس غير حيث وفي ومن وهو وهي منذ "
    "لقد أيضا يكون و",
    "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز می شد او ما من شما آنها "
    "ها های اما یا اگر هر چه بود شده باشد دارد نیست بسیار همه هستند خیلی وقتی پس کنید کند "
    "باید",
    "ur": "کے کی کا میں اور ہے سے کو پر نے کہ یہ اس وہ ہیں تھا تھی ایک بھی نہیں تو ہو جو کر گیا "
    "ہم آپ ان لیے ساتھ لیکن یا اگر جب کیا بہت ہی تک اپنے کچھ سب ہوتا ہوتی رہا تھے",
    # Not to be asked for.
    "ps": "د په چې او دی له ته کې دا یې هم سره یو وو شو دي نه هغه کړي زه موږ تاسو که خو ډېر",
}
_DEVANAGARI = {
    "hi": "के की का में और है से को पर ने कि यह इस वह हैं था थी एक भी नहीं तो हो जो कर गया हम "
    "आप उन लिए साथ लेकिन या अगर जब क्या बहुत ही तक अपने कुछ सब होता होती रहा थे मैं",
    "mr": "आणि आहे च्या मध्ये हे या ते तो ती की पण नाही मी तू आम्ही तुम्ही एक हा ही होते होता "
    "होती आहेत साठी वर केला केली करून काही खूप सर्व जे जर तर असे त्या त्याच्या त्यांनी "
    "आपण किंवा मला झाला",
    "ne": "र छ को मा हो यो त्यो ले लाई का की छन् थियो थिए पनि भने एक हरू गर्न गर्ने भएको हुन्छ "
    "छैन म तिमी हामी तपाईं उनी उनले धेरै सबै तर वा यदि जब के अनि भयो गरे बाट सँग लागि "
    "मेरो",
}
SMALL_WORDS = {
    "LATIN": _LATIN,
    "CYRILLIC": _CYRILLIC,
    "ARABIC": _ARABIC,
    "DEVANAGARI": _DEVANAGARI,
}
"""The small words of languages, by script."""

LETTERS = (
    ("\u00e3\u00f5", "pt vi"),
    ("\u00f1", "es gl"),
    ("\u00df", "de"),
    ("\u00e7", "fr pt ca tr"),
    ("\u0153", "fr"),
    ("\u00ec\u00f2", "it vi ca"),
    ("\u00e6\u00f8", "da no"),
    ("\u00e5", "sv da no fi"),
    ("\u00e4\u00f6", "de sv fi sk hu tr"),
    ("\u0142\u017c\u017a\u015b\u0107\u0144\u0105\u0119", "pl"),
    ("\u0159\u016f\u011b", "cs"),
    ("\u010d\u0161\u017e\u0165\u010f\u0148\u00fd", "cs sk"),
    ("\u013e\u013a\u0155\u00f4", "sk fr vi"),
    ("\u0219\u021b\u0103\u0163", "ro vi"),
    ("\u0151\u0171", "hu"),
    ("\u0131\u011f\u015f", "tr"),
    ("\u01a1\u01b0\u0111\u1ea1\u1ea3\u1ebf\u1ec7\u1ed9\u1edd\u1ef1", "vi"),
    ("\u0456\u0454\u0457\u0491", "uk be"),
    ("\u0454\u0457\u0491", "uk"),
    ("\u045e", "be"),
    ("\u044b\u044d\u0451", "ru be"),
    ("\u044a", "bg ru"),
    ("\u0449", "bg ru uk"),
    ("\u0458\u0459\u045a\u045f", "sr mk"),
    ("\u0452\u045b", "sr"),
    ("\u0453\u045c\u0455", "mk"),
    ("\u067e\u0686\u0698\u06af\u06a9\u06cc", "fa ur ps"),
    ("\u0679\u0688\u0691\u06ba\u06d2\u06c1\u06be", "ur"),
    ("\u0629\u0649\u0643\u064a", "ar"),
    ("\u0933", "mr"),
)
"""Letters, and the languages here that write native words with them."""
