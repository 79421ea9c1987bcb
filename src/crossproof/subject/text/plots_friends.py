"""Plots between friends: meeting, quarrelling, sharing, helping."""

from __future__ import annotations

FRIENDS: dict[str, tuple[str, str]] = {
    "one for two": ("hero:any friend:any food:food place:place both:hero+friend", """
        #opening %intro(hero) {hero} had a friend [named|called] {friend}.
        #want %oneday(hero) {both.they} <found> a <tasty> {food} {place.at} the {place}. Both wanted to eat {food.it}.
        #event !Conflict [@hero>friend"[I saw {food.it} first|{food.it} is mine]!" <shouted> {hero}. @friend>hero"No,
        {food.it} is mine!" <shouted> {friend}. |{hero} grabbed {food.it}, and {friend} pulled {food.it} back.]
        #reaction Then the {food} fell [down|into the mud|on the ground]. {hero} was <sad> because {hero.he} was mean to
        a friend.
        #resolution [@hero>friend"I am sorry. [Let us share|We can share] the next one," said {hero}. |{hero} said
        sorry, and {friend} did too.] {hero} had another {food} and cut {food.it} [in half|into two pieces].
        #ending {both.they} ate together and were <happy>. [%learned(hero) sharing makes [everyone|friends]
        happy.|{food.it} tasted better than ever.]
        """),
    "new friend": ("hero:any friend:any place:place toy:toy both:hero+friend", """
        #opening %intro(hero) {hero} was [<very>|] <lonely> because {hero.he} was new in the village.
        #want {hero} wanted to find a friend. So {hero.he} <strolled> to the {place} [every day|with a {toy.colour}
        {toy}].
        #event There {hero} met %meet(friend) [under a tree|on a bench|near a <spot>].
        #reaction {hero} felt [shy|<worried>] because {hero.he} did not know what to say.
        #resolution [At last|Then], {hero} [smiled|walked over]. [@hero>friend"[Do you want to|Will you] play with me?"
        asked {hero}. @friend>hero"[Yes, I would love to|Yes, please|Oh yes]!" said {friend}.|{hero} shared the {toy}
        with {friend.him}, and {friend} <smiled>.] {both.they} <played> [all <daytime>|until it was dark|together]
        {place.at} the {place}.
        #ending {hero} was not lonely anymore. [%glad(hero).|%learned(hero) a friend may be just one word away. |From
        that day on, {both.they} were best friends.]
        """),
    "will not share": ("hero:any friend:any toy:toy place:place both:hero+friend", """
        #opening %intro(hero) {hero} had a [<pretty>|<big>] {toy.colour} {toy}.
        #want %oneday(hero) {hero.his} friend {friend} came to the {place} and wanted to play with {toy.it}.
        #event !Conflict [@hero>friend"No, {toy.it} is mine!" <shouted> {hero}.|{hero} pulled the {toy} away and said
        no.]
        #reaction [%sadly(friend)|{friend} was <angry>] because {hero} was so <mean>. {friend.he} [went home|walked
        away]. Soon {hero} was [<lonely>|<bored>] because it was no fun:noun to play alone.
        #resolution [{hero} ran after {friend}.|{hero} went to see {friend}.] [@hero>friend"I am sorry. [You can have a
        turn|Please come back]," said {hero}. |{hero} said sorry and gave {friend.him} the {toy}.] {friend} [smiled
        and|] forgave {hero.him}.
        #ending {both.they} played with {toy.it} together. %glad(hero). [%learned(hero) it is more fun:noun to share.|]
        """),
    "mean neighbour": ("hero:any bully:any clothes:clothes place:place both:hero+bully", """
        #opening %intro(hero) [Every day|Every morning], {hero} went to the {place} [with|in] a {clothes.colour}
        {clothes}.
        #want There was also a <mean> {bully.kind} [named|called] {bully}. {bully} wanted [everyone to be sad|to tease
        {hero.him}].
        #event !Conflict %oneday(hero) {bully} [took|grabbed] the {clothes} and [threw {clothes.it} in the mud|would not
        give {clothes.it} back].
        #reaction %sadly(hero). But {hero} saw that {bully} was [<lonely>|<sad>] too, because nobody played with
        {bully.him}.
        #resolution [@hero>bully"[Do you want to|Will you] play with me?" asked {hero}.|{hero} asked {bully.him} to play
        a game.] {bully} was <surprised>. {bully.he} [said sorry|was <sorry>] and gave {clothes.it} back.
        #ending Soon {both.they} were [good|best] friends. [%learned(bully) it is better to be kind.|%learned(hero)
        kindness can change a heart.|%glad(hero).]
        """),
    "cry for help": ("hero:any friend:any rope:rope", """
        #opening %intro(hero) {hero} [loved|liked] to [tell lies|play tricks]. {hero.his} friend {friend} did not.
        #want %oneday(hero) {hero} [wanted|hoped] to trick:verb {friend}. @hero>friend"Help, I am [stuck|hurt]!"
        <shouted> {hero}. {friend} ran to help, but {hero} laughed. !Foreshadowing [@friend>hero"[Someday nobody will
        believe you|Lies will hurt:verb you one day]," said {friend}.|{friend} said that tricks end:verb badly.]
        #event The next day, {hero} fell into a deep hole!
        #reaction {hero} was <scared> and <shouted> for help:noun. {friend} thought it was a trick and did not come.
        #resolution !BadEnding {hero} sat there all night.
        #ending In the morning, {friend} pulled {hero.him} out with a {rope}. %learned(hero) nobody trusts someone who
        lies:verb.
        """),
    "race": ("hero:any friend:any place:place gift:treasure", """
        #opening %intro(hero) {hero} was fast:adjective. {hero.his} friend {friend} was slow.
        #want %oneday(hero) there was a race {place.at} the {place}. Both wanted to win a {gift.colour} {gift}.
        [@hero>friend"You will [lose|never win]!" said {hero}.|{hero} laughed at {friend}.]
        #event The race began, and {hero} was far ahead. [!Foreshadowing It was warm, and {hero.his} eyes were sleepy.|]
        So {hero} sat down under a [tree|bush] and fell asleep.
        #reaction {friend} did not stop because {friend.he} wanted to try {friend.his} best:noun.
        #resolution !Twist When {hero} woke up, {friend} had already won! {hero} was <surprised>.
        #ending {friend} [<smiled>|was <proud>|was <happy>] and held the {gift} up high. [@hero>friend"[You were
        great|You did well]," said {hero}.|{hero} said sorry.|%learned(hero) slow and careful can win.]
        """),
    "jealous": ("hero:any friend:any toy:toy elder:elder both:hero+friend", """
        #opening %intro(hero) {hero} had a good friend [named|called] {friend}.
        #want %oneday(hero) {friend} got a <pretty> {toy.colour} {toy} from {friend.his} {elder}. {hero} wanted {toy.it}
        for {hero.himself}. {hero} was <jealous>.
        #event [When {friend} looked away|While {friend} ate lunch], {hero} took the {toy} and hid {toy.it} [under the
        <furniture>|behind a <spot>].
        #reaction %sadly(friend). [@friend>hero"[My {toy} is gone|I cannot find my {toy}]!" said {friend}.|{friend}
        looked everywhere for {toy.it}.] {hero} felt <sorry> because it was wrong.
        #resolution [@hero>friend"I took {toy.it}. I was <jealous>," said {hero}.|{hero} told the truth and gave
        {toy.it} back.] {friend} [forgave|hugged] {hero.him}.
        #ending %glad(hero). [%learned(hero) a friend is worth more than a {toy}.|Then {both.they} played together all
        <daytime>.]
        """),
    "fall into water": ("hero:any friend:any rope:rope", """
        #opening %intro(hero) {hero} and {hero.his} friend {friend} lived near a <big> [lake|river|pond].
        #want %oneday(hero) {friend} wanted to [cross:verb|look at] the deep water. [!Foreshadowing @hero>friend"[Be
        careful|The rocks are wet], my friend," said {hero}.|]
        #event {friend} [jumped|climbed|ran] from rock to rock, slipped and fell in!
        #reaction @friend>hero"[Help me|Help]!" <shouted> {friend}. {hero} was <scared> for {friend.him} because the
        water was deep.
        #resolution {hero} found a [long:adjective|strong] {rope} and threw one end to {friend}. Then {hero.he} pulled
        [hard|{friend.him} out].
        #ending [@friend>hero"Thank you, you saved me," said {friend}.|{friend} was <grateful> and hugged {hero.him}.]
        {hero} was <proud>. [%learned(friend) it is important to be careful.|]
        """),
    "stage": ("hero:any friend:any elder:elder place:place both:hero+friend", """
        #opening %intro(hero) {hero} had a beautiful voice, but {hero.he} was [<very>|] shy.
        #want There was a [<big>|] show {place.at} the {place}, and {hero} wanted to sing a song [there|for {hero.his}
        {elder}].
        #event When {hero} stood on the stage, {hero.he} [forgot|could not remember] the words!
        #reaction {hero} was <worried> because everyone looked at {hero.him}. {hero.his} hands [were shaking|shook].
        #resolution {hero.his} friend {friend} [came|ran|jumped] onto the stage and held {hero.his} hand.
        [@friend>hero"[You can do it|I will sing with you|We can do it together]," [whispered|said] {friend}.|{friend}
        began to sing <softly>.] {hero} [looked at {friend} and|] felt [brave|<calm>]. {both.they} sang [the whole
        song|together].
        #ending Everybody clapped [and cheered|]. [{hero.his} {elder} was <proud>.|%glad(hero).|%learned(hero) friends
        make each other brave.]
        """),
}  # fmt: skip
