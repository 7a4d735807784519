// What the page asks the server. Every request carries the room's secret in a header.

let room = sessionStorage.getItem("room") || "";

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(method, path, body, signal) {
  const headers = { "X-Brushjax": "1", "X-Room": room };
  if (body && !(body instanceof Blob)) body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(`api/${path}`, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server can't be reached");
  }
  if (answer.ok) return answer;
  let said = answer.statusText;
  try { said = (await answer.json()).error || said; } catch { /* an answer of something in between */ }
  throw new Refused(answer.status, said);
}

export const post = async (path, body, signal) => (await ask("POST", path, body || {}, signal)).json();
export const put = async (path, body) => (await ask("PUT", path, body)).json();
export const blob = async (path) => (await ask("GET", path)).blob();
export const download = async (path) => {
  const answer = await ask("GET", path);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "");
  return { name: name ? name[1] : "download", blob: await answer.blob() };
};

// Enters a room: the one of this tab, where it is still there.
export async function enter() {
  const offered = await (await ask("POST", "room")).json();
  room = offered.room;
  sessionStorage.setItem("room", room);
  return offered;
}

// Calls told(state) now and after each change, for as long as the page is open.
export async function news(told, lost) {
  for (let wait = 500; ; wait = Math.min(8000, wait * 2)) {
    try {
      const reader = (await ask("GET", "news")).body.pipeThrough(new TextDecoderStream()).getReader();
      lost(false);
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        wait = 500;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) if (line) told(JSON.parse(line));
      }
    } catch (error) {
      if (error.status === 410) { sessionStorage.removeItem("room"); location.reload(); return; }
    }
    lost(true);
    await new Promise((later) => setTimeout(later, wait));
  }
}
