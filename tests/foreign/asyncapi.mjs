// Reads an AsyncAPI document with the official parser, and prints the version and each finding.
//
//   node asyncapi.mjs FILE
import { fromFile, Parser } from "@asyncapi/parser";

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const findings = diagnostics.map(({ code, message, path }) => `${path.join(".")}: ${code}: ${message}`);
console.log(JSON.stringify({ version: document?.version() ?? null, findings }));
