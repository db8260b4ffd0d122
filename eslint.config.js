import js from "@eslint/js";
import globals from "globals";

const PAGES = "talkingface/web/static/**/*.js";

export default [
  js.configs.recommended,
  { files: [PAGES], languageOptions: { globals: globals.browser } },
  { files: ["**/capture.js"], languageOptions: { globals: globals.audioWorklet } },
  { files: ["tests/js/*.js"], languageOptions: { globals: globals.nodeBuiltin } },
  {
    rules: {
      eqeqeq: "error",
      "no-console": "error",
      "no-eval": "error",
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-unused-vars": ["error", { args: "all" }],
    },
  },
];
