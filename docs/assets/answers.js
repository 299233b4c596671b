// A link to a question opens what its answer rests on, also when it is followed again.
function openAnswer() {
  const target = location.hash.length > 1 && document.querySelector(`[id="${CSS.escape(location.hash.slice(1))}"]`)
  if (!target) return
  const answer = target.closest("details.answer") || target.nextElementSibling
  if (answer && answer.matches("details.answer")) answer.open = true
}
addEventListener("hashchange", openAnswer)
addEventListener("DOMContentLoaded", openAnswer)
addEventListener("click", (event) => event.target.closest("a[href*='#']") && setTimeout(openAnswer))
