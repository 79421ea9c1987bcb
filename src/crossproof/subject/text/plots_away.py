"""Plots out in the world: finding, learning, getting lost, helping animals."""

from __future__ import annotations

AWAY: dict[str, tuple[str, str]] = {
    "stuck pet": ("hero:any elder:elder pet:pet rope:rope place:place", """
        #opening %intro(hero) {hero} [loved|liked] to <play> {place.at} the {place}.
        #want %oneday(hero) {hero} heard a [quiet|small|sad] sound and wanted to [help|know what it was].
        #event {hero} <found> a <young> {pet} that was stuck [in a tree|behind a rock|under a bridge|in the mud].
        #reaction The {pet} [cried|trembled] because {pet.it} was <scared>. {hero} felt <worried> for {pet.it}.
        [@hero>pet"[Do not be afraid|Do not worry], I will help you," said {hero} <softly>.|{hero} ran to get {hero.his}
        {elder}.]
        #resolution {hero} [found|got] a [long:adjective|strong] {rope} and pulled [hard|slowly|carefully]. [At
        last|After a while], the {pet} was [safe|free]!
        #ending {hero} gave {pet.it} some [food|water:object] and a [warm|soft] blanket. {hero.his} {elder} was <proud>.
        [%learned(hero) even a small hand can help.|Soon the {pet} and {hero} were friends.|%glad(hero).]
        """),
    "learn a skill": ("hero:any friend:any elder:elder place:place both:hero+elder", """
        #opening %intro(hero) {hero.his} friend {friend} could [swim|skate] very well, but {hero} could not.
        #want {hero} wanted to learn too. [@hero>elder"Can you teach me?" {hero} asked {hero.his} {elder}.|So {hero}
        asked {hero.his} {elder} for help:noun.]
        #event %oneday(hero) {both.they} went to the {place}. {hero} tried, but {hero.he} [slipped|fell down] <many>
        times.
        #reaction {hero} was <sad> because it was so hard:adjective. [@elder>hero"Try again, I [trust|believe in] you,"
        said {hero.his} {elder}.|{hero.his} {elder} told {hero.him} to try again.]
        #resolution So {hero} practiced every [day|morning] for <many> weeks. [Slowly|Day by day], {hero} got
        [better|better and better].
        #ending At last, {hero} could do it [all alone|as well as {friend}]! {hero} was [<very>|] <proud>.
        [%learned(hero) practice makes hard:adjective things easy.|]
        """),
    "lost in the woods": ("hero:any elder:elder helper:animal both:hero+helper", """
        #opening %intro(hero) {hero} lived with {hero.his} {elder} near a <dark> forest. [!Foreshadowing
        @elder>hero"[Never leave the path|Do not go far from home:place]," [said|warned] {hero.his} {elder}.|]
        #want %oneday(hero) {hero} wanted to [pick|find|look for] [berries|flowers|mushrooms].
        #event {hero} <strolled> [too far|far into the forest] and left the path. Soon {hero} was lost!
        #reaction {hero} was <scared> because everything was [dark|strange|so quiet]. [@hero"[I want to go home|I cannot
        find the path]!" cried {hero}.|{hero} sat down near a <spot> and cried.]
        #resolution Then {hero} met %meet(helper). [@helper>hero"[Follow me|Come with me], I know the way," said
        {helper}.|{helper} was kind and knew the way.] {both.they} <strolled> through the forest [until {both.they} saw
        the house|together].
        #ending {hero.his} {elder} [hugged|kissed] {hero.him}. [%glad(hero).|%learned(hero) it is wise to listen.|{hero}
        thanked {helper}, and {both.they} were friends forever.]
        """),
    "found treasure": ("hero:any owner:any treasure:treasure place:place both:hero+owner", """
        #opening %intro(hero)
        #want %oneday(hero) {hero} <found> a <pretty> {treasure.colour} {treasure} {place.at} the {place}. {hero} wanted
        to keep {treasure.it}.
        #event Then {hero} saw %meet(owner). {owner} [looked under a <spot>|searched the grass] and <wept>.
        [@owner>hero"[I lost:verb my {treasure}|My {treasure} is gone]!" said {owner}.|{owner} had lost:verb a
        {treasure}.] #reaction {hero} felt <sad> for {owner.him} because the {treasure} was {owner.his} own.
        #resolution [@hero>owner"[Here is your {treasure}|I found {treasure.it} near a <spot>]," said {hero}.|{hero}
        gave {treasure.it} back.] {owner} was <surprised> and <happy>. [@owner>hero"[Thank you so much|You are very
        honest]!" said {owner}.|{owner} hugged {hero.him}.]
        #ending [{owner} gave {hero} a <tasty> cake.|{both.they} played together all <daytime>.] %glad(hero).
        [%learned(hero) it feels good to be honest.|]
        """),
    "rainy picnic": ("hero:any friend:any food:food place:place both:hero+friend", """
        #opening %intro(hero) {hero} had a good friend [named|called] {friend}.
        #want %oneday(hero) {both.they} wanted to have a picnic {place.at} the {place}. {hero} brought a <tasty> {food}.
        #event [But then|Suddenly], dark clouds came and it began to rain:verb [<very> hard|].
        #reaction {both.they} were <sad> because the picnic was over. [@friend>hero"[Now we are all wet|The rain is so
        mean]!" said {friend}.|{friend} <wept>.]
        #resolution Then {hero} had an idea. [@hero>friend"[Let us have the picnic at my house|We can eat under my
        table]!" said {hero}.|{hero} took {friend} home and put the blanket under the table.] {both.they} ate the {food}
        [inside|on the floor] and [told stories|sang songs|played games].
        #ending [Outside it was <wild>, but inside it was warm.|%glad(hero).|%learned(hero) a rainy day can be fun
        too.|Then {both.they} saw a beautiful rainbow.]
        """),
    "baby bird": ("hero:any elder:elder place:place both:hero+elder", """
        #opening %intro(hero) {hero} and {hero.his} {elder} [loved|liked] to walk {place.at} the {place}.
        #want %oneday(hero) {hero} wanted to [look at|watch|listen to] the birds [in the trees|].
        #event Under a [<big>|old] tree, {both.they} <found> a [tiny|baby|young] bird. The nest was high up, and the
        bird had fallen out.
        #reaction {hero} was <worried> because the bird was [cold|hurt|all alone]. [@hero>elder"[We must help|Let us
        help the bird]!" said {hero}.|{hero} wanted to help.]
        #resolution [{hero.his} {elder} got a ladder|{hero.his} {elder} lifted {hero.him} up], and {hero} put the bird
        back into the nest [softly|gently]. [The mother bird began to sing.|]
        #ending [@elder>hero"[You have a kind heart|You were very careful]," said {hero.his} {elder}.|{hero.his} {elder}
        was <proud>.] [%glad(hero).|%learned(hero) small things need care.|Every day, {hero} went back to hear the bird
        sing.]
        """),
    "tall tree": ("hero:any friend:any elder:elder", """
        #opening %intro(hero) {hero} [loved|liked] to climb. Near the house was an old tree. !Foreshadowing
        [@elder>hero"[Do not climb the old tree|That tree is too high:adjective for you]," {hero.his} {elder}
        [warned|said].|{hero.his} {elder} said that it was not safe.]
        #want %oneday(hero) {hero} wanted to show:verb {hero.his} friend {friend} how brave {hero.he} was.
        [@friend>hero"[Please do not do it|Remember what you heard]," said {friend}.|{friend} was <worried>.] But {hero}
        did not listen.
        #event {hero} climbed high up. Then a branch broke, and {hero} fell to the ground!
        #reaction !BadEnding {hero} cried because {hero.his} [arm|leg|foot] was broken.
        #resolution {hero} had to stay in bed for <many> weeks.
        #ending {hero} watched the other children play and was <sad>. %learned(hero) it is [important|wise] to listen.
        """),
    "magic wish": ("hero:any elder:elder treasure:treasure food:food place:place", """
        #opening %intro(hero) {hero} lived with {hero.his} {elder} near the {place}.
        #want %oneday(hero) {hero} <found> a <pretty> {treasure.colour} {treasure}. {treasure.it} was magic! {hero}
        [wished|made a wish] for a <tasty> {food}.
        #event Suddenly, there was a {food}, then <many>, then a hundred! The house was full of food.
        #reaction {hero} was [<scared>|<surprised>] because it did not stop.
        #resolution [@elder>hero"[Wish:verb for nothing|Give the {treasure} back]," said {hero.his} {elder}.|{hero.his}
        {elder} had an idea.] !Twist {hero} threw the {treasure} into the [lake|river|water], and all was gone!
        #ending {hero} felt <calm> again. [%learned(hero) it is good to want less.|{hero} hugged {hero.his} {elder} and
        never wished for magic again.|%glad(hero) because {hero.he} had a home:place.]
        """),
}  # fmt: skip
