// A link to a question opens what its answer rests on.
function openAnswer() {
  const heading = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)))
  const answer = heading && heading.nextElementSibling
  if (answer && answer.matches("details.answer")) answer.open = true
}
addEventListener("hashchange", openAnswer)
addEventListener("DOMContentLoaded", openAnswer)
