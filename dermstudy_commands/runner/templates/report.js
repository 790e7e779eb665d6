// The reader's choice of light or dark, kept between pages; and all code shown or hidden at once.
(function () {
  const root = document.documentElement;
  const key = "dermstudy-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function kept() {
    try {
      return localStorage.getItem(key);
    } catch (error) {
      return null; // a browser may keep nothing for pages opened from disk
    }
  }

  function theme() {
    return root.dataset.theme || (system.matches ? "dark" : "light");
  }

  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();

  document.addEventListener("DOMContentLoaded", function () {
    const button = document.getElementById("theme");
    const code = document.getElementById("code");

    function name() {
      button.textContent = theme() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", "Change to " + button.textContent.toLowerCase() + " colours");
    }

    button.hidden = false;
    name();
    system.addEventListener("change", name);
    button.addEventListener("click", function () {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(key, root.dataset.theme);
      } catch (error) {
        // the choice holds for this page
      }
      name();
    });

    if (!code) return;
    code.hidden = false;
    code.addEventListener("click", function () {
      const show = code.textContent === "Show code";
      document.querySelectorAll("details.code").forEach((one) => (one.open = show));
      code.textContent = show ? "Hide code" : "Show code";
    });
  });
})();
