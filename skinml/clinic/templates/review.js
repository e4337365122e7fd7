"use strict";
// Keys, and boxes drawn by hand. Everything else works without this file.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const stage = document.getElementById("stage");
  const list = document.getElementById("boxes");
  const draw = document.getElementById("draw");
  const decision = document.getElementById("decision");
  const say = (words) => {
    const place = document.getElementById("said");
    if (place) place.textContent = words;
  };

  // --- keys -------------------------------------------------------------------------------------
  const keys = document.getElementById("keys");
  if (keys) {
    keys.closest("label").hidden = false;
    keys.checked = sessionStorage.getItem("keys") !== "off";
    keys.addEventListener("change", () => sessionStorage.setItem("keys", keys.checked ? "on" : "off"));
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input:not([type=checkbox])");
      if (!keys.checked || typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      const key = event.key.toLowerCase();
      if (/^[1-9]$/.test(key)) {
        const box = document.querySelectorAll("#boxes input[name=box]")[key - 1];
        if (box) box.click();
        return;
      }
      const target = document.querySelector(`[data-key="${CSS.escape(key)}"]:not([hidden])`);
      if (!target || event.shiftKey) return;
      event.preventDefault();
      target.click();
    });
  }
  let sent = false; // one step for one press, however often it is pressed
  for (const form of document.querySelectorAll("form")) {
    form.addEventListener("submit", (event) => {
      if (sent) event.preventDefault();
      sent = true;
    });
  }
  addEventListener("pageshow", () => { sent = false; });

  // --- nobody's there: the server has ended, and the picture leaves the screen --------------------
  const idle = Number(document.body.dataset.idleMs);
  if (idle) setTimeout(() => {
    const words = document.createElement("main");
    words.textContent = "The review has ended, for nobody used it. Start it again at the terminal.";
    document.body.replaceChildren(words);
  }, idle + 1500);

  if (!stage || !draw) return;

  // --- boxes ------------------------------------------------------------------------------------
  const width = stage.viewBox.baseVal.width;
  const height = stage.viewBox.baseVal.height;
  const least = Math.max(4, Math.round(Math.min(width, height) / 50));
  const step = Math.max(1, Math.round(Math.min(width, height) / 50));
  let made = 0;
  let drawing = false;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const show = (drawn) => {
    const { left, top, across, down } = drawn;
    for (const rect of drawn.group.children) {
      rect.setAttribute("x", left);
      rect.setAttribute("y", top);
      rect.setAttribute("width", across);
      rect.setAttribute("height", down);
    }
    const words = `drawn by hand, ${across} by ${down} pixels, ${left} from the left, ${top} from the top`;
    drawn.input.value = `${left},${top},${left + across},${top + down},by hand`;
    drawn.words.textContent = ` ${words}`;
    drawn.group.setAttribute("aria-label", `Box ${words}`);
  };

  const add = (left, top, across, down) => {
    made += 1;
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "box");
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "application");
    group.setAttribute("aria-roledescription", "box");
    group.append(document.createElementNS(SVG, "rect"), document.createElementNS(SVG, "rect"));
    group.lastChild.setAttribute("class", "line");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.name = "box";
    input.checked = true;
    input.dataset.box = group.dataset.box = `hand-${made}`;
    const words = document.createElement("span");
    const label = document.createElement("label");
    label.append(input, words);
    const item = document.createElement("li");
    item.append(label);
    const drawn = { group, input, words, item, left, top, across, down };
    group.drawn = drawn;
    list.append(item);
    stage.append(group);
    document.getElementById("none").hidden = true;
    show(drawn);
    return drawn;
  };

  const remove = (drawn) => {
    drawn.item.remove();
    drawn.group.remove();
    document.getElementById("none").hidden = list.children.length > 0;
    say("The box was removed.");
    draw.focus();
  };

  const mode = (on) => {
    drawing = on;
    stage.classList.toggle("drawing", on);
    draw.setAttribute("aria-pressed", String(on));
    if (on) say("Drag over what is to be covered.");
  };

  const byKeys = () => {
    const across = Math.round(width / 5), down = Math.round(height / 5);
    const drawn = add(Math.round((width - across) / 2), Math.round((height - down) / 2), across, down);
    drawn.group.focus();
    say("Arrow keys move the box, Shift and an arrow key change its size, Delete removes it, Enter leaves it.");
  };

  draw.hidden = false;
  // A press by key, or by the key D, has no pointer behind it.
  draw.addEventListener("click", (event) => { if (event.detail) mode(!drawing); else byKeys(); });

  list.addEventListener("change", (event) => {
    const group = stage.querySelector(`[data-box="${CSS.escape(event.target.dataset.box)}"]`);
    if (group) group.classList.toggle("off", !event.target.checked);
  });
  for (const input of list.querySelectorAll("input[name=box]")) { // as the browser remembered them
    const group = stage.querySelector(`[data-box="${input.dataset.box}"]`);
    if (group) group.classList.toggle("off", !input.checked);
  }

  stage.addEventListener("keydown", (event) => {
    const drawn = event.target.drawn;
    if (!drawn) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const by = event.altKey ? 1 : step;
    if (way && event.shiftKey) {
      drawn.across = clamp(drawn.across + way[0] * by, least, width - drawn.left);
      drawn.down = clamp(drawn.down + way[1] * by, least, height - drawn.top);
    } else if (way) {
      drawn.left = clamp(drawn.left + way[0] * by, 0, width - drawn.across);
      drawn.top = clamp(drawn.top + way[1] * by, 0, height - drawn.down);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      remove(drawn);
    } else if (event.key === "Enter" || event.key === "Escape") {
      draw.focus();
    } else return;
    event.preventDefault();
    if (way) { show(drawn); say(drawn.words.textContent.trim()); }
  });

  // --- by mouse or finger -----------------------------------------------------------------------
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
    return [clamp(Math.round(point.x), 0, width), clamp(Math.round(point.y), 0, height)];
  };
  let held = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || (event.pointerType !== "mouse" && !drawing)) return;
    const group = event.target.closest("g.box");
    const [x, y] = at(event);
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    held = group && group.drawn
      ? { drawn: group.drawn, dx: x - group.drawn.left, dy: y - group.drawn.top }
      : { x, y, drawn: null };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = at(event);
    if (held.x === undefined) {
      held.drawn.left = clamp(x - held.dx, 0, width - held.drawn.across);
      held.drawn.top = clamp(y - held.dy, 0, height - held.drawn.down);
      show(held.drawn);
      return;
    }
    const across = Math.abs(x - held.x), down = Math.abs(y - held.y);
    if (!held.drawn && (across < least || down < least)) return; // a slip is no box
    held.drawn = held.drawn || add(0, 0, least, least);
    held.drawn.left = Math.min(x, held.x);
    held.drawn.top = Math.min(y, held.y);
    held.drawn.across = Math.max(least, across);
    held.drawn.down = Math.max(least, down);
    held.drawn.left = clamp(held.drawn.left, 0, width - held.drawn.across);
    held.drawn.top = clamp(held.drawn.top, 0, height - held.drawn.down);
    show(held.drawn);
  });
  const drop = () => {
    if (held && held.drawn) say(held.drawn.words.textContent.trim());
    held = null;
  };
  stage.addEventListener("pointerup", drop);
  stage.addEventListener("pointercancel", drop);
})();
