// What HTMX has no word for: the theme, and the map on or off.
(function () {
  "use strict";
  var root = document.documentElement;
  var base = document.body.dataset.base || "/";

  function isDark() {
    var chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }

  document.getElementById("theme").addEventListener("click", function () {
    var theme = isDark() ? "light" : "dark";
    root.dataset.theme = theme;
    // The server writes it into the next page, so that no page flashes in the wrong one.
    document.cookie = "m3lung_theme=" + theme + "; path=" + base + "; max-age=31536000; samesite=lax";
  });

  document.addEventListener("change", function (event) {
    if (event.target.id === "map-on") {
      document.querySelectorAll(".thumbnails").forEach(function (list) {
        list.classList.toggle("bare", !event.target.checked);
      });
    }
  });

  // "m" does the same from the keyboard, outside of fields.
  document.addEventListener("keydown", function (event) {
    var box = document.getElementById("map-on");
    if (event.key === "m" && box && !event.ctrlKey && !event.metaKey && !event.altKey &&
        !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      box.click();
    }
  });

  // An answer that is an error page is shown whole, not swapped into a table.
  document.addEventListener("htmx:beforeSwap", function (event) {
    if (event.detail.xhr.status === 403 || event.detail.xhr.status === 503) {
      event.detail.shouldSwap = false;
      window.location.reload();
    }
  });
})();
