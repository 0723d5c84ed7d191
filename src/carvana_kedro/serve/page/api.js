// Shows openapi.json as tables.

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function table(caption, head, rows) {
  const header = element("tr", "", ...head.map(text => element("th", text)));
  header.childNodes.forEach(cell => cell.setAttribute("scope", "col"));
  const lines = rows.map(([first, ...others]) => {
    const name = element("th", "", element("code", first));
    name.setAttribute("scope", "row");
    return element("tr", "", name, ...others.map(text => element("td", text)));
  });
  return element("table", "", element("caption", caption), element("thead", "", header), element("tbody", "", ...lines));
}

function valuesOf({enum: names, type, examples, exclusiveMinimum, exclusiveMaximum}) {
  if (names) return names.join(", ");
  if (examples) return `such as ${examples.join(", ")}`;
  return exclusiveMinimum === undefined ? type : `${type} above ${exclusiveMinimum} and below ${exclusiveMaximum}`;
}

function operation(method, path, {summary, parameters, requestBody, responses}) {
  const made = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", `${summary}.`));
  if (requestBody) made.append(element("p", requestBody.description));
  if (parameters) {
    const rows = parameters.map(({name, description, schema}) =>
      [name, description, valuesOf(schema), String(schema.default ?? "")]);
    made.append(table("Parameters of the query", ["name", "meaning", "values", "default"], rows));
  }
  const rows = Object.entries(responses).map(([status, {description, content}]) =>
    [status, description, Object.keys(content).join(", ")]);
  made.append(table("Answers", ["status", "meaning", "type"], rows));
  return made;
}

const description = await (await fetch("openapi.json")).json();
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, details] of Object.entries(methods)) {
    document.getElementById("operations").append(operation(method, path, details));
  }
}
