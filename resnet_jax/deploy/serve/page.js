"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const [drop, input, said, results] = ["drop", "file", "said", "results"].map((id) => document.getElementById(id));
  const [secret, token] = ["secret", "token"].map((id) => document.getElementById(id));
  const MOST = 12; // images of one choice
  const SIDE = 2048; // pixels of the longer side of what is made smaller
  let refused = [];

  const say = (text) => { said.textContent = text; };
  const make = (name, attributes, ...children) => {
    const found = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  };

  // JPEG and PNG go as they are; what else the browser reads, and what is too large, goes as a smaller picture.
  const prepared = async (file) => {
    const plain = ["image/jpeg", "image/png"].includes(file.type);
    if (plain && file.size <= facts.bytes) return [file, ""];
    let picture;
    try { picture = await createImageBitmap(file); } catch { return [file, ""]; } // the server says what it is
    const factor = Math.min(1, SIDE / Math.max(picture.width, picture.height));
    const canvas = make("canvas", { width: Math.max(1, Math.round(picture.width * factor)), height: Math.max(1, Math.round(picture.height * factor)) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, factor < 1 ? "image/jpeg" : "image/png", 0.95));
    return [blob ?? file, `sent as ${canvas.width} x ${canvas.height} pixels`];
  };

  const ask = async (blob, wanted) => {
    const headers = { "Content-Type": blob.type || "application/octet-stream" };
    if (token.value) headers.Authorization = `Bearer ${token.value}`;
    const path = facts.explains ? "/explain" : "/predict";
    const asked = new URLSearchParams();
    if (facts.whole) asked.set("top", "30"); // every colour in the picture has its row
    if (wanted !== undefined) asked.set("class", wanted);
    const query = asked.size ? `?${asked}` : "";
    let response;
    try {
      response = await fetch(path + query, { method: "POST", body: blob, headers });
    } catch {
      throw new Error("The server does not answer.");
    }
    const found = await response.json().catch(() => null);
    if (response.status === 401) { secret.hidden = false; token.focus(); throw Object.assign(new Error("The server asks for its token."), { token: true }); }
    if (!response.ok) throw new Error(found?.error?.message ?? `The server answered ${response.status}.`);
    return facts.explains ? found : { image: found.images[0] };
  };

  const figure = (source, text, caption) =>
    make("figure", {}, make("img", { src: source, alt: text }), make("figcaption", {}, caption));

  // Boxes of one class are one row: how many, and the highest score.
  const grouped = (answers) => {
    if (!answers.some((answer) => answer.box)) return answers;
    const found = new Map();
    for (const answer of answers) {
      const known = found.get(answer.name);
      if (known) { known.count += 1; known.probability = Math.max(known.probability, answer.probability); }
      else found.set(answer.name, { name: answer.name, probability: answer.probability, count: 1 });
    }
    return [...found.values()];
  };

  const show = (card, blob, found) => {
    const pictures = card.querySelector(".pictures"), bars = card.querySelector(".bars");
    pictures.classList.toggle("large", facts.whole);
    if (found.picture) {
      pictures.replaceChildren(
        figure(found.seen, "The image as the network sees it", "as the network sees it"),
        figure(found.picture, found.caption, found.caption),
      );
    } else if (!pictures.childElementCount && blob.type.startsWith("image/")) {
      pictures.replaceChildren(figure(URL.createObjectURL(blob), "The image", "the image"));
    }
    bars.replaceChildren(...grouped(found.image.classes).map((answer) => {
      const isShare = answer.probability !== undefined;
      const share = isShare ? `${(100 * answer.probability).toFixed(1)} %` : String(Number(answer.value.toPrecision(5)));
      const number = answer.count === undefined ? share : `${answer.count} ${answer.count === 1 ? "box" : "boxes"}, best ${share}`;
      const name = facts.explains ? make("button", { type: "button", class: "name", "aria-pressed": String(answer.name === found.explained) }, answer.name) : make("span", { class: "name" }, answer.name);
      if (facts.explains) name.addEventListener("click", () => answered(card, blob, facts.whole && answer.name === found.explained ? undefined : answer.name));
      const colour = found.colours?.[answer.name];
      const label = make("span", { class: "name" }, ...(colour ? [make("span", { class: "colour", "aria-hidden": "true", style: `background: ${colour}` })] : []), name);
      const row = make("div", { class: "row" }, label, make("span", { class: "number" }, number));
      const fill = make("div", { class: "fill" });
      if (isShare) fill.style.width = `${100 * answer.probability}%`;
      if (colour) fill.style.background = colour;
      return make("li", {}, row, ...(isShare ? [make("div", { class: "track", "aria-hidden": "true" }, fill)] : []));
    }));
    if (!found.image.classes.length) bars.replaceChildren(make("li", { class: "quiet" }, facts.nothing));
  };

  const answered = async (card, blob, wanted) => {
    const trouble = card.querySelector(".trouble");
    try {
      show(card, blob, await ask(blob, wanted));
      trouble.hidden = true;
    } catch (error) {
      if (error.token) refused.push([card, blob]);
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
  };

  const take = async (files) => {
    const chosen = [...files].slice(0, MOST);
    if (!chosen.length) return;
    for (const [index, file] of chosen.entries()) {
      say(chosen.length > 1 ? `Image ${index + 1} of ${chosen.length} …` : "Looking …");
      const card = document.getElementById("result").content.firstElementChild.cloneNode(true);
      const [blob, note] = await prepared(file);
      card.querySelector("h2").textContent = (file.name || "pasted image") + (note ? ` (${note})` : "");
      results.prepend(card);
      await answered(card, blob);
    }
    say(files.length > MOST ? `The first ${MOST} of ${files.length} images.` : "");
    input.value = "";
  };

  input.addEventListener("change", () => take(input.files));
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); take(files); }
  });
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => take(event.dataTransfer?.files ?? []));
  const again = () => {
    const waiting = refused;
    refused = [];
    secret.hidden = true;
    for (const [card, blob] of waiting) answered(card, blob);
  };
  document.getElementById("send").addEventListener("click", again);
  token.addEventListener("keydown", (event) => { if (event.key === "Enter") again(); });
})();
