() => {
  // Asks for news while the page is seen, and sends files. Runs once, however often the page is built.
  if (window.sagePanel) return;
  const pause = 600; // milliseconds
  const silent = "The panel does not answer. Start it again: the run resumes, and this page with it.";
  let asking = false;
  const banner = (text) => {
    const line = document.querySelector("#sage_silent");
    if (line && line.textContent !== text) line.textContent = text;
  };
  const ask = async () => {
    const button = document.querySelector("#sage_tick");
    if (!button || asking || document.visibilityState !== "visible") return;
    asking = true;
    try {
      const answer = await fetch("sage/alive", {cache: "no-store"});
      banner(answer.ok ? "" : "The panel asks for its password again: reload the page.");
      if (answer.ok) button.click();
    } catch (error) {
      banner(silent);
    }
    asking = false;
  };
  setInterval(ask, pause);
  window.sagePanel = {
    async upload(input) {
      const file = input.files[0];
      const line = input.closest(".sage-upload").querySelector("[role=status]");
      if (!file) return;
      const most = Number(input.dataset.most);
      if (!file.name.toLowerCase().endsWith(".safetensors")) {
        line.textContent = `${file.name} is not a .safetensors file; only that format is read.`;
        return;
      }
      if (file.size > most) {
        line.textContent = `${file.name} has ${(file.size / 1e6).toFixed(0)} MB, and at most ` +
          `${(most / 1e6).toFixed(0)} MB are taken.`;
        return;
      }
      line.textContent = `Sending ${file.name} …`;
      try {
        const answer = await fetch("sage/upload", {
          method: "POST", body: file,
          headers: {"X-Sage-Token": input.dataset.token, "X-Sage-Name": encodeURIComponent(file.name)},
        });
        line.textContent = answer.ok ? `${file.name} is open.` : await answer.text();
        if (answer.ok) document.querySelector("#sage_refresh_loras").click();
      } catch (error) {
        line.textContent = `${file.name} could not be sent; is the panel still running?`;
      }
      input.value = "";
    },
  };
}
