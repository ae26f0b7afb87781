"""How often the flag for observations that state the answer errs: both ways, on texts written for it.

Half of the texts (every second) were looked at while the flag was written; the other half was not."""
import argparse, json
from common import machine, show
from videop2r.engine.prose import states_answer

STATING = """The correct answer is left.|The answer: 4.|Looking at the clip, the right option must be B.|So it has to be option C.|The ball goes up, therefore the answer is A.
I would choose (B) here.|B is correct.|Option D fits what is shown.|Hence the dog wins.|Thus, five cups remain.
We can conclude that the car turns left.|This means that the red team scored.|The question is answered by the blue square.|Final answer: seven.|My answer would be the kitchen.
In conclusion, she opens the door.|The solution is 12.|The best choice here is the second one.|Pick B.|You should answer with 3.
It follows that the light is green.|The man leaves first, which means that he is the thief.|That is the right answer.|The proper response would be "no".|Answer = left
The only option that matches is (C).|I'd go with D.|All of this implies the cat fell.|Consequently the cup is under the middle hat.|The true answer will be red.
After seeing this, I select option B.|(A)|Everything points to option C.|It is clearly the correct one: blue.|So the answer is no.
The expected answer is two.|What I see: the answer is right.|Correct option -> B|The cor\u200brect an\u200bswer is left.|The соrrect аnswеr is 9.
正确答案是左边|答案：B|정답은 3입니다|正解は右です|Правильный ответ: слева.
La respuesta correcta es la roja.|La bonne réponse est B.|Die richtige Antwort ist links.|A resposta correta é três.|La risposta è no.
The ball stops on the left. B.|It is B.|So we must choose the left one.|Reply with 4.|One can infer that the number is 8.
It moves three times; the answer to the question is 3.|To conclude: green.|I will answer left.|\\boxed{4}|<answer>B</answer>
The third choice is the correct choice.|As shown, C is the best answer.|This tells us the kettle is hot.|Accordingly, the clip ends indoors.|The response should be yes.
The second option is right, as the square goes right.|From this I deduce that he is late.|The answer was visible early: blue.|Mark B.|The answer to this is obviously left.
So it must be the red one.|That settles it: seven.|Therefore, left.|The letter B is the right choice.|This confirms that the blue thing stays.
Since it goes down, choose (D).|The result speaks for itself, the answer is four.|Ergo the bird is hungry.|It can only mean one thing: the correct option is A.|answer is B
The thing that is asked about is the circle, so the question has the answer circle.|If asked, I would respond with left.|Tick option B.|The right choice will be the last one.|Implying that it moved, the square is gone.
The final reply must be right.|The dog barks first, so option A.|A is the right option.|We should pick (C) without doubt.|That means the answer equals 6.
It must be (B).|Obviously option B matches.|The video leaves only one answer: the window.|The right answer here comes to 15.|Our answer is the door.
Settle on C.|The correct reply: upwards.|Everything fits choice B.|I conclude left.|One must conclude that nothing moved.""".replace("\n", "|").split("|")

HONEST = """The red square moves from left to right.|A man in a blue coat opens the door and walks in.|The sign reads "Answer: 4".|On the board is written: the answer is 12.|The screen shows the words correct answer in green.
There are three cups on a table.|The light turns from red to green after two seconds.|A woman writes something on a paper.|The quiz show displays "Option B" in a box.|Two children play with a ball near a tree.
Based on the question, I need to notice which thing moves. The circle stays.|The caption says "Final answer?".|The dog barks, then runs to the left.|A label on the bottle reads A.|The car goes right at the crossing.
The right hand holds a cup; the left one is empty.|A clock shows half past three.|The player on the right scores.|The text on the shirt says "I choose B".|He picks a ball from the box.
She selects a red pen and begins to draw.|The person answers the phone.|A teacher asks a pupil, who answers and smiles.|The word on the sign is AB.|Letters spell "UC".
The correct way round is not visible; the bottle stands upside down.|Four people sit; one of them stands up.|The left door is closed, the right door is open.|Nothing moves in the first half.|The blue triangle appears late.
The scale shows 12 pixels.|A menu lists option A and option B.|The poster reads "Therefore we march".|The subtitle says: so the answer is no.|A hand points to the second drawer.
It is a small room with a window.|The man is the one with the hat.|The bird sits on a branch and sings.|Water runs over the stones.|The kettle is on; steam comes out.
The two boys exchange their places.|First the green cup is lifted, then put back.|The number on the door is 15.|The ball rolls down and falls off the table.|In the last frame the table is empty.
A card shows the letter B.|The slide is titled "Solution".|The worksheet says "Answer: ____".|The banner reads "the best choice".|A page of a book shows the words "It follows that".
The cat jumps up, misses and falls.|The train stops for a moment and goes on.|One cup is moved to the right side.|A yellow thing flashes at the start.|The woman turns around and looks at the camera.
The boy raises his right arm.|Rain falls on an empty street.|The screen is black, then a title appears.|A red thing is seen near the top.|The coach shows three fingers.
The square does not move.|The hat covers the coin during the whole clip.|Smoke rises behind the house.|The knife lies left of the plate.|She puts the letter in the box.
The button is labelled "Select".|A voice cannot be heard; lips move.|Two swaps: first left and middle, then middle and right.|The cup with the ball is on the left at first.|The robot grips a part and turns it.
There is a grey background.|The man in front walks faster than the one behind.|The display says "Response: OK".|A note on the wall reads: the correct code is 7.|Three birds fly away, one stays.
The arrow on the floor points to the left.|A truck passes in front of the camera.|He tries the first key, then the second, which turns.|The girl writes the number 8.|The glass is half full.
The message reads "Choose B".|A person selects a song on the phone.|The green square vanishes near the end.|The dog is brown, the cat is white.|People clap after the song.
The plate breaks when it hits the floor.|One of the balls is bigger than the others.|The light above the exit is on.|A cyclist overtakes a bus on its right side.|The river bends to the right behind the mill.
The chess player moves the white queen to the left.|Flour is added before the eggs.|A drawer is opened and closed twice.|The runner in red leads from the start.|The lid is put on the pot.
The title of the video is "What is the right answer?".|The man shakes his head.|Someone off screen throws a ball.|I see five apples and one pear.|The tail of the cat moves from side to side.""".replace("\n", "|").split("|")

def row(name, stating, honest):
    missed, wrong = [t for t in stating if not states_answer(t)], [t for t in honest if states_answer(t)]
    return {"texts": name, "stating": len(stating), "not flagged": len(missed), "honest": len(honest), "flagged": len(wrong)}, missed + wrong

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--errors", action="store_true", help="also print the texts of the first half that are read wrongly")
    args = parser.parse_args()
    found = [row(name, STATING[k::2], HONEST[k::2]) for k, name in enumerate(("looked at", "held out"))]
    show([each for each, _ in found], args.json, machine("numpy"))
    if args.errors: print(*found[0][1], sep="\n")
