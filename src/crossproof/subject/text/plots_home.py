"""Plots at home: with the family, or alone.

Each entry is the plot's name, its roles with their types (see `cast.py` and `lexicon.THINGS`), and what it tells, in
the template language of `grammar.py`. To add one, write it here: its words must be in the lexicon, and each
alternative must fit what comes before and after it.
"""

from __future__ import annotations

HOME: dict[str, tuple[str, str]] = {
    "lost toy": ("hero:any elder:elder toy:toy place:place both:hero+elder", """
        #opening %intro(hero) {hero} had a {toy.colour} {toy} and [loved {toy.it} very much|took {toy.it} everywhere].
        #want %oneday(hero) {hero} [took|carried] the {toy} to the {place} [to play|because {hero.he} wanted to <play>].
        #event [But|Then] {hero} <played> too [fast|hard] and [lost:verb|dropped] {toy.it} [near a <spot>|in the
        grass|]. #reaction %sadly(hero) because the {toy} was [gone|lost]. [@hero>elder"[I lost:verb my {toy}|I cannot
        find my {toy}], can you help me?" asked {hero}. |@hero"[Oh no|Oh], where is my {toy}?" cried {hero}.|{hero} told
        {hero.his} {elder} all about it.]
        #resolution {hero} and {hero.his} {elder} <searched> [everywhere|behind a <spot> and under a <spot>]. [At last,
        {both.they} <found> {toy.it} under a <big> <spot>!
        #ending %glad(hero) and hugged {hero.his} {elder}. [%learned(hero) it is good to ask for help:noun. |From that
        day on, {hero} took good care of {hero.his} {toy}.] |!BadEnding {both.they} looked until it was dark, but the
        {toy} was gone forever.
        #ending {hero} went home <sad>. [%learned(hero) it is important to take care of things. |That night, {hero}
        cried in bed because {hero.he} missed the {toy}.]]
        """),
    "broken dish": ("hero:any elder:elder dish:dish toy:toy both:hero+elder", """
        #opening %intro(hero) {hero.his} {elder} had a <pretty> {dish.colour} {dish} [on a <furniture>|at home:place].
        [!Foreshadowing @elder>hero"Please do not play near the {dish}," said {hero.his} {elder}.|]
        #want %oneday(hero) {hero} wanted to play with a {toy.colour} {toy} [in the house|in the kitchen|inside].
        #event {hero} threw the {toy} too [hard|high], and {toy.it} hit the {dish}. The {dish} fell and broke!
        #reaction {hero} was <scared> because {hero.his} {elder} [loved|liked] the {dish}.
        #resolution [@hero>elder"I am sorry, I broke your {dish}," said {hero}. |[Slowly|Then], {hero} went to
        {hero.his} {elder} and told the truth.] {hero.his} {elder} was [not angry|<proud>] because {hero} was honest.
        #ending [Together {both.they} fixed {dish.it} with glue.|@elder>hero"[Thank you for telling me|You are very
        brave]," said {hero.his} {elder} <softly>.|%learned(hero) it is best to tell the truth.] %glad(hero).
        """),
    "storm": ("hero:any elder:elder toy:toy both:hero+elder", """
        #opening %intro(hero) {hero} lived in a [little|warm|nice] house with {hero.his} {elder}.
        #want One [<wild>|dark|<wild>, dark] night, {hero} wanted to sleep [with {hero.his} {toy.colour} {toy}|in
        {hero.his} warm bed].
        #event Suddenly, there was a [<loud> noise|flash of lightning|<loud> sound]. It was [a <big> storm|thunder]!
        #reaction {hero} [trembled|shivered|hid under the blanket] because {hero.he} was <scared>. [@hero>elder"I am
        <scared>! [Can you stay with me|Will you help me]?" cried {hero}.|{hero} called for {hero.his} {elder}.]
        #resolution {hero.his} {elder} [came|hurried|ran] in and [held {hero.his} hand|hugged {hero.him}].
        [@elder>hero"[It is just the rain|The thunder cannot hurt:verb you|You are safe with me]," said {hero.his}
        {elder} <softly>.|] Then {both.they} sang a [nice|happy|quiet] song [together|until the storm stopped|about the
        sun]. #ending Soon {hero} felt <calm> and [fell asleep|slept well|went to sleep]. [%learned(hero) a storm is not
        so scary with a friend near.|In the morning, the sun was shining and %glad(hero).]
        """),
    "birthday": ("hero:any friend:any elder:elder food:food gift:gift both:friend+elder", """
        #opening %intro(hero) [Today|That day] was the birthday of {hero}!
        #want {hero} [hoped|wished] for a [party|<big> party] with {hero.his} friend {friend} and a <tasty> {food}.
        #event But {friend} did not come to play, and {hero.his} {elder} [said nothing|was too late:adjective for
        lunch|did not say a word].
        #reaction %sadly(hero) because {hero.he} thought that [everyone|everybody] forgot. [@hero"Nobody remembered my
        birthday," said {hero} [sadly|].|{hero} sat alone [by the window|on a <furniture>].]
        #resolution !Twist {hero} [went|walked] home and opened the door. @both>hero"[Surprise|Happy birthday]!"
        <shouted> {friend} and {hero.his} {elder}.
        #ending {friend} gave {hero} a [<pretty>|] {gift.colour} {gift}. %glad(hero). [It was the best day ever. |{hero}
        was <grateful> for such good friends.|Everyone ate the {food} and sang a song.]
        """),
    "seed": ("hero:any elder:elder plant:plant friend:any", """
        #opening %intro(hero) {hero.his} {elder} gave {hero.him} a [tiny|little|small] seed.
        #want {hero} wanted to grow a <pretty> {plant.colour} {plant} [in the yard|near the house|in the garden].
        {hero.he} dug a hole and planted the seed.
        #event [{hero} waited|{hero.he} waited and watched] for <many> days, but nothing happened.
        #reaction {hero} was <sad> because the seed did not grow. [@hero>elder"Why does my seed not grow?" asked {hero}.
        @elder>hero"You must [be patient|wait]," said {hero.his} {elder}.|{hero.his} friend {friend} laughed at the
        empty ground.]
        #resolution So {hero} watered the ground every [day|morning]. [After <many> weeks|One <fine> morning], there was
        [a <big> {plant.colour}|a <pretty>, {plant.colour}] {plant}!
        #ending %glad(hero) because {hero.he} [grew {plant.it} alone|worked so hard]. [%learned(hero) good things need
        time. |{hero} showed the {plant} to everyone.|{hero} gave {plant.it} a good name.]
        """),
    "strange noise": ("hero:any elder:elder noisy:noisy", """
        #opening %intro(hero) {hero} lived with {hero.his} {elder} in a [<big>|old|little] house.
        #want One [dark|<wild>|late:adjective] night, {hero} [was in bed and wanted|wanted] to sleep.
        #event Then {hero.he} heard a <loud> [noise|sound] [under the bed|behind the door|near the window].
        #reaction @hero>elder"[There is a monster in my room|I heard a monster]!" <shouted> {hero}. {hero.he} was
        <scared> [and hid under the blanket|and {hero.his} hands were shaking|because it was so dark].
        #resolution {hero.his} {elder} came with a [light|flashlight] and looked [<quickly>|]. !Twist It was not a
        monster, it was only a <young> {noisy}! [The {noisy} was <scared> and hungry.|{noisy.it} was [lost and|] cold
        and wet.]
        #ending [{hero} laughed and gave the {noisy} some food.|{hero} <smiled> and kept {noisy.it} warm.]
        [%learned(hero) scary things may be very small.|Soon {hero} and the {noisy} were good friends.|{hero} was not
        afraid of the dark:noun again.]
        """),
    "present": ("hero:any elder:elder gift:gift friend:any", """
        #opening %intro(hero) {hero} loved {hero.his} {elder} very much.
        #want It was the birthday of {hero.his} {elder}, and {hero} wanted to give {elder.him} a [<pretty>|] gift. But
        {hero} had no [coins|money] [at all|].
        #event {hero} [went|ran] to {hero.his} friend {friend}. [@hero>friend"What can I do?" asked {hero}.|{friend} was
        smart.] @friend>hero"[You can make something|Make a {gift} with your own hands]," said {friend}.
        #reaction {hero} was <excited> because it was a [great|good|wonderful] idea.
        #resolution {hero} worked [hard|all <daytime>|for <many> days] and made a {gift.colour} {gift}.
        #ending {hero.his} {elder} [<smiled>|had tears of joy]. [@elder>hero"[This is the best {gift} in the world|I
        love {gift.it}]!" said {hero.his} {elder}.|{elder.he} hugged {hero} and was <happy>.] [%learned(hero) a gift
        from the heart is the best.|]
        """),
    "greedy": ("hero:any elder:elder", """
        #opening %intro(hero) {hero} was always [hungry|greedy].
        #want %oneday(hero) {hero.his} {elder} baked <many> <tasty> [cakes|cookies|pies|muffins] [for the family|for
        dinner|]. {hero} wanted to eat every one. [!Foreshadowing @elder>hero"Do not eat too much," said {hero.his}
        {elder}.|]
        #event [When nobody looked|When {hero.his} {elder} was outside], {hero} ate one. Then {hero.he} ate another, and
        another!
        #reaction !BadEnding Soon {hero} felt sick because {hero.he} had too much. [@hero>elder"My stomach
        [hurts|aches]!" {hero} cried. |{hero} <wept> and called for help:noun.]
        #resolution {hero.his} {elder} [gave {hero.him} some water:object|put {hero.him} to bed|gave {hero.him}
        medicine]. [@hero>elder"I am sorry," said {hero}.|{hero} was <sorry>.]
        #ending {hero} had to stay in bed [all day|for <many> days]. %learned(hero) [it is wrong to be greedy|too much
        of a good thing is bad].
        """),
    "broken toy": ("hero:any elder:elder toy:toy friend:any both:hero+friend", """
        #opening %intro(hero) {hero} had a [<pretty>|] {toy.colour} {toy}. [{toy.it} was {hero.his} best toy.|{hero.he}
        played with {toy.it} every day.]
        #want %oneday(hero) {hero} wanted to show:verb the {toy} to {hero.his} friend {friend}.
        #event [On the way|While {both.they} played], {hero} fell over a [rock|log] and the {toy} broke [in half|into
        <many> pieces].
        #reaction %sadly(hero). [@hero>friend"My {toy} is broken!" cried {hero}. |@friend>hero"[Do not cry, we can fix
        it|Do not be sad, we will find help:noun]," said {friend}.|{friend} held {hero.his} hand.]
        #resolution {both.they} [took|carried] {toy.it} to {hero.his} {elder}. {elder.he} fixed the {toy} with
        [glue|tape|a ribbon].
        #ending {toy.it} was as good as new! %glad(hero) and thanked {hero.his} {elder}. [%learned(hero) a broken thing
        can be fixed with help:noun.|Then {both.they} played together until [dinner|it was dark].]
        """),
    "hat on the head": ("hero:any elder:elder clothes:clothes place:place both:hero+elder", """
        #opening %intro(hero) {hero} had a {clothes.colour} {clothes} and wore {clothes.it} [every day|everywhere|all
        the time].
        #want %oneday(hero) {hero} wanted to go to the {place} with {hero.his} {elder}.
        #event But {hero.he} could not find the {clothes}!
        #reaction {hero} was [<worried>|<sad>] because it was time to go. [@hero>elder"Where is my {clothes}?" asked
        {hero}. |{hero} ran [up and down|in and out], but {clothes.it} was not there.]
        #resolution !Twist {hero.his} {elder} looked at {hero.him} and [<smiled>|began to laugh].
        [@elder>hero"[{clothes.it} is on your head|Touch your head], [silly|my dear:noun]!" said {hero.his} {elder}.
        |{elder.he} [showed {hero.him} a mirror|took {hero.him} to a mirror]. The {clothes} was on {hero.his} head!]
        #ending {hero} was <surprised> and laughed too. Then {both.they} [walked|went] to the {place} and had fun:noun.
        [%learned(hero) it is good to look near before far.|]
        """),
}  # fmt: skip
