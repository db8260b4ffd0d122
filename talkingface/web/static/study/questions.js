// The questions about a pair.

export const SIDES = ["a", "b"];
export const QUESTIONS = ["lips", "realism", "quality"];
const NAMES = { lips: "lips", realism: "realism", quality: "picture" };

// Text of what is left to do, empty when all is done. watched: side -> whether it was. answers:
// question -> side, for those that are answered.
export function missingText(watched, answers) {
  const unseen = SIDES.filter((side) => !watched[side]);
  const open = QUESTIONS.filter((question) => !answers[question]).map((question) => NAMES[question]);
  const parts = [];
  if (unseen.length === 2) parts.push("watch both videos to the end");
  if (unseen.length === 1) parts.push(`watch video ${unseen[0].toUpperCase()} to the end`);
  if (open.length) parts.push(`answer: ${open.join(", ")}`);
  return parts.join("; ");
}

// Question that a key answers: the one with the focus, else the first that is open.
export function currentQuestion(focused, answers) {
  return focused ?? QUESTIONS.find((question) => !answers[question]) ?? QUESTIONS.at(-1);
}

// Question that is `by` places after another; the first and the last are ends.
export function questionAfter(question, by) {
  const place = QUESTIONS.indexOf(question) + by;
  return QUESTIONS[Math.min(Math.max(place, 0), QUESTIONS.length - 1)];
}

const input = (question, rest) => document.querySelector(`input[name="${question}"]${rest}`);

// Answers on the page: question -> side, for those that are answered.
export function answersOnPage() {
  const chosen = QUESTIONS.map((question) => [question, input(question, ":checked")?.value]);
  return Object.fromEntries(chosen.filter(([, side]) => side));
}

export function setAnswers(answers) {
  for (const question of QUESTIONS) {
    for (const side of SIDES) input(question, `[value="${side}"]`).checked = answers[question] === side;
  }
}

function focusedQuestion() {
  return document.activeElement?.closest("[data-question]")?.dataset.question;
}

function focus(question) {
  (input(question, ":checked") ?? input(question, "")).focus();
}

// Answer the current question. move: go on to the next open one.
export function choose(side, move) {
  const question = currentQuestion(focusedQuestion(), answersOnPage());
  input(question, `[value="${side}"]`).checked = true;
  const answers = answersOnPage();
  focus((move && QUESTIONS.find((one) => !answers[one])) || question);
}

// Move the focus by so many questions.
export function step(by) {
  const focused = focusedQuestion();
  focus(questionAfter(currentQuestion(focused, answersOnPage()), focused ? by : 0));
}
