// Requests to the server of the study.

import { UserError, userErrorOf } from "../common.js";

// Resolves to the JSON of the response. Throws a UserError.
export async function call(method, path, body) {
  const options = { method, headers: {}, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new UserError("The server does not answer. Check your connection, then try again.");
  }
  if (!response.ok) throw await userErrorOf(response);
  return response.json();
}

export const raterPath = (token, path = "") => `/api/raters/${encodeURIComponent(token)}${path}`;
