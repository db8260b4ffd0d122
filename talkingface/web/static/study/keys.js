// Keyboard shortcuts. Those of one character can be turned off (WCAG 2.2, 2.1.4).

const SETTING = "character-keys";

// Name of the shortcut that an event means; null if it means none.
export function shortcutOf(event, characters) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return null;
  if (event.key.length > 1) return event.key;
  return characters ? event.key.toLowerCase() : null;
}

// Call `actions[shortcut]` on keys while `active()`. box: the checkbox that turns characters on.
export function prepareKeys(actions, active, box) {
  box.checked = readSetting() !== "off";
  box.addEventListener("change", () => writeSetting(box.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (!active()) return;
    const natively = event.target.closest("button") || event.target.name === "sound";
    if (natively && event.key.length > 1) return; // Enter on a button, arrows on a switch
    const action = actions[shortcutOf(event, box.checked)];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function readSetting() {
  try {
    return localStorage.getItem(SETTING);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function writeSetting(value) {
  try {
    localStorage.setItem(SETTING, value);
  } catch {
    // it counts until the page is left
  }
}
