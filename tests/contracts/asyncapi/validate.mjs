// A second opinion on the schemas, by the validator most used in JavaScript: `node validate.mjs FOLDER` reads
// `{"schemas": {PATH: SCHEMA}, "base": URL, "cases": [{"schema": PATH, "value": ...}]}` and prints a flag for each case.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.argv[2]}/`);
const Ajv = require('ajv').default;
const addFormats = require('ajv-formats').default;
const { schemas, base, cases } = JSON.parse(readFileSync(0, 'utf8'));
// Strict: unknown keywords and formats are errors. `required` beside no properties is how alternatives are written.
const ajv = new Ajv({ strict: true, strictTypes: false, strictRequired: false, allowUnionTypes: true });
addFormats(ajv);
for (const [path, schema] of Object.entries(schemas)) ajv.addSchema(schema, `${base}/${path}`);
process.stdout.write(JSON.stringify(cases.map(({ schema, value }) => ajv.validate(`${base}/${schema}`, value))));
