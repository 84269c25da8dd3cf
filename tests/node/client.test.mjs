// The official openai client for Node works with the gateway at ANOS_URL.
// tests/test_sdk_node.py starts one, on the stub or in front of tests/chat_only.py, and runs this.

import assert from 'node:assert/strict';
import { test as declare } from 'node:test';
import OpenAI from 'openai';

const model = 'gpt-35-turbo';
const hello = 'Hello! How can I help you today?';
// Without retries a failure shows.
const options = { baseURL: `${process.env.ANOS_URL}/v1`, apiKey: 'sk-1234', maxRetries: 0 };
const client = new OpenAI(options);
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const weather = { type: 'function', name: 'weather', parameters, strict: true };
const person = {
  type: 'object',
  properties: { name: { type: 'string' }, age: { type: 'integer' } },
  required: ['name', 'age'],
  additionalProperties: false,
};
// What a stream helper has to put together: text, reasoning, a refusal, calls.
const answers = [
  { input: 'Say hello' },
  { input: '[stub reason] Say hello' },
  { input: '[stub refuse] Say hello' },
  { input: '[stub calls-2] How warm is it?', tools: [weather] },
];

// No test may hang: nothing here takes this long unless it is broken.
const test = (name, body) => declare(name, { timeout: 10_000 }, body);

async function collect(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}

function callsOf(response) {
  return response.output.filter((item) => item.type === 'function_call');
}

// An error of the client's own class for that status, with the fields of the envelope.
function refusal(kind, fields) {
  return (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.ok(error.requestID);
    for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, name);
    return true;
  };
}

const unknownId = refusal(OpenAI.NotFoundError, { code: 'not_found', param: 'response_id' });

test('create, retrieve, delete', async () => {
  const { responses } = client;
  const created = await responses.create({ model, input: 'Say hello', metadata: { a: 'b' } });
  assert.equal(created.output_text, hello);
  assert.equal(created.status, 'completed');
  assert.deepEqual(created.metadata, { a: 'b' });
  assert.equal(created.usage.output_tokens, 10);
  assert.ok(created._request_id);
  assert.deepEqual(await responses.retrieve(created.id), created);
  await responses.delete(created.id);
  for (const method of ['retrieve', 'delete', 'cancel']) {
    await assert.rejects(responses[method](created.id), unknownId);
  }
});

test('the stream helper ends with the response that is stored', async () => {
  for (const request of answers) {
    const stream = client.responses.stream({ model, ...request });
    const events = await collect(stream);
    const final = await stream.finalResponse();
    const joined = (type) =>
      events.filter((event) => event.type === type).map((event) => event.delta).join('');
    assert.equal(joined('response.output_text.delta'), final.output_text);
    const spelled = callsOf(final).map((call) => call.arguments).join('');
    assert.equal(joined('response.function_call_arguments.delta'), spelled);
    assert.equal(events.at(-1).type, 'response.completed');
    const stored = await client.responses.retrieve(final.id);
    assert.equal(stored.output_text, final.output_text);
    const identities = (response) => response.output.map((item) => [item.type, item.id]);
    assert.deepEqual(identities(final), identities(stored));
  }
});

test('create with stream gives the events', async () => {
  for (const request of answers) {
    const events = await collect(await client.responses.create({ model, stream: true, ...request }));
    assert.equal(events[0].type, 'response.created');
    assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
    const { type, response } = events.at(-1);
    assert.equal(type, 'response.completed');
    const done = events.filter((event) => event.type === 'response.output_item.done');
    assert.deepEqual(done.map((event) => event.item), response.output);
    const { output_text, ...stored } = await client.responses.retrieve(response.id);
    assert.equal(output_text, request.tools || request.input.includes('refuse') ? '' : hello);
    assert.deepEqual(stored, response);
  }
});

test('an answer cut at the limit is incomplete', async () => {
  const request = { model, input: '[stub length-3] Say hello' };
  const whole = await client.responses.create(request);
  assert.equal(whole.status, 'incomplete');
  assert.equal(whole.incomplete_details.reason, 'max_output_tokens');
  const final = await client.responses.stream(request).finalResponse();
  assert.equal(final.status, 'incomplete');
  assert.equal(final.output_text, whole.output_text);
});

test('input items are paged', async () => {
  const texts = [0, 1, 2, 3, 4].map((number) => `Message ${number}`);
  const input = texts.map((content) => ({ role: 'user', content }));
  const { id } = await client.responses.create({ model, input });
  const { inputItems } = client.responses;
  const said = (items) => items.map((item) => item.content[0].text);
  assert.deepEqual(said(await collect(inputItems.list(id, { limit: 2 }))), texts.toReversed());
  const ascending = { limit: 2, order: 'asc' };
  assert.deepEqual(said(await collect(inputItems.list(id, ascending))), texts);
  const first = await inputItems.list(id, ascending);
  const pages = await collect(first.iterPages());
  assert.deepEqual(pages.map((page) => page.data.length), [2, 2, 1]);
  const rest = await inputItems.list(id, { order: 'asc', after: first.data[1].id });
  assert.deepEqual(said(rest.data), texts.slice(2));
});

test('a background response is polled until it is complete', async () => {
  let response = await client.responses.create({ model, input: 'Say hello', background: true });
  assert.equal(response.status, 'queued');
  while (['queued', 'in_progress'].includes(response.status)) {
    response = await client.responses.retrieve(response.id);
  }
  assert.equal(response.status, 'completed');
  assert.equal(response.output_text, hello);
  await assert.rejects(client.responses.cancel(response.id), OpenAI.BadRequestError);
});

test('a background response is cancelled', async () => {
  const request = { model, input: '[stub silent] Hi', background: true };
  const { id } = await client.responses.create(request);
  const cancelled = await client.responses.cancel(id);
  assert.equal(cancelled.status, 'cancelled');
  const { output_text: _, ...stored } = await client.responses.retrieve(id);
  assert.deepEqual(stored, cancelled);
});

test('a stream that is cancelled elsewhere ends', async () => {
  const request = { model, input: '[stub silent-2] Hi', stream: true };
  const events = [];
  for await (const event of await client.responses.create(request)) {
    events.push(event);
    if (events.length === 1) await client.responses.cancel(event.response.id);
  }
  assert.equal(events.at(-1).type, 'response.failed');
  assert.equal(events.at(-1).response.status, 'cancelled');
});

test('a conversation goes on from the previous response', async () => {
  const first = await client.responses.create({ model, input: 'Say hello' });
  const second = await client.responses
    .stream({ model, input: 'Say hello again', previous_response_id: first.id })
    .finalResponse();
  assert.ok(second.usage.input_tokens > first.usage.input_tokens + 5);
  const items = await collect(client.responses.inputItems.list(second.id, { order: 'asc' }));
  assert.deepEqual(items.map((item) => item.role), ['user', 'assistant', 'user']);
  await assert.rejects(
    client.responses.create({ model, input: 'Hi', previous_response_id: 'resp_unknown' }),
    refusal(OpenAI.BadRequestError, {
      code: 'previous_response_not_found',
      param: 'previous_response_id',
    }),
  );
});

test('functions are called and their outputs answered', async () => {
  const question = { role: 'user', content: '[stub calls-2] How warm is it?' };
  const request = { model, tools: [weather] };
  const asked = await client.responses.create({ ...request, input: [question] });
  const calls = callsOf(asked);
  const spoken = calls.map((call) => [call.name, JSON.parse(call.arguments)]);
  assert.deepEqual(spoken, [['weather', { city: 'text' }], ['weather', { city: 'text' }]]);
  const outputs = calls.map(({ call_id }) => ({
    ...{ type: 'function_call_output', call_id, output: 'cold' },
  }));
  const chained = { ...request, input: outputs, previous_response_id: asked.id };
  // The same without the store: the client sends its own objects back.
  const stateless = { ...request, input: [question, ...asked.output, ...outputs], store: false };
  for (const next of [chained, stateless]) {
    const answered = await client.responses.create(next);
    assert.equal(answered.output_text, 'The tools say: cold; cold');
  }
});

test('structured output is parsed', async () => {
  const format = { type: 'json_schema', name: 'person', schema: person, strict: true };
  const request = { model, input: 'Who?', text: { format } };
  const parsed = await client.responses.parse(request);
  assert.deepEqual(parsed.output_parsed, { name: 'text', age: 1 });
  const streamed = await client.responses.stream(request).finalResponse();
  assert.deepEqual(JSON.parse(streamed.output_text), { name: 'text', age: 1 });
});

test('chat completions', async () => {
  const messages = [{ role: 'user', content: 'Say hello' }];
  const { completions } = client.chat;
  const whole = await completions.create({ model, messages });
  assert.equal(whole.choices[0].message.content, hello);
  assert.equal(whole.choices[0].finish_reason, 'stop');
  const chunks = await collect(
    await completions.create({
      ...{ model, messages, stream: true, stream_options: { include_usage: true } },
    }),
  );
  const deltas = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content);
  assert.equal(deltas.join(''), hello);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.equal(await completions.stream({ model, messages }).finalContent(), hello);
});

test('chat completions run functions', async () => {
  const cities = [];
  const callback = ({ city }) => {
    cities.push(city);
    return 'cold';
  };
  const tool = { name: 'weather', parameters, parse: JSON.parse, function: callback };
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({
      ...{ model, stream, tools: [{ type: 'function', function: tool }] },
      messages: [{ role: 'user', content: '[stub calls-2] How warm is it?' }],
    });
    assert.equal(await runner.finalContent(), 'The tools say: cold; cold');
  }
  assert.deepEqual(cities, ['text', 'text', 'text', 'text']);
});

test('the models are listed', async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(models.map(({ id }) => id).toSorted(), [model, 'gpt-4']);
  const unknown = refusal(OpenAI.NotFoundError, { code: 'model_not_found' });
  await assert.rejects(client.models.retrieve('unknown'), unknown);
});

test('refusals and failures are errors of their own classes', async () => {
  const create = (request) => client.responses.create({ model, input: 'Hi', ...request });
  await assert.rejects(
    create({ model: 'unknown' }),
    refusal(OpenAI.BadRequestError, { code: 400, param: 'model', type: 'invalid_request_error' }),
  );
  await assert.rejects(
    create({ temperature: 3 }),
    refusal(OpenAI.BadRequestError, { code: 'invalid_value', param: 'temperature' }),
  );
  await assert.rejects(
    new OpenAI({ ...options, apiKey: 'sk-wrong' }).models.list(),
    refusal(OpenAI.AuthenticationError, { code: 'invalid_api_key' }),
  );
  for (const stream of [false, true]) {
    await assert.rejects(
      create({ stream, input: '[stub error-500] Hi' }),
      refusal(OpenAI.InternalServerError, { status: 502 }),
    );
    await assert.rejects(
      create({ stream, input: '[stub error-429] Hi' }),
      refusal(OpenAI.RateLimitError, { status: 429 }),
    );
  }
});

test('a stream that breaks off fails in the hands of the client', async () => {
  const input = '[stub die-3] Say hello';
  const events = await collect(await client.responses.create({ model, input, stream: true }));
  const { type, response } = events.at(-1);
  assert.equal(type, 'response.failed');
  assert.ok(response.error.message);
  assert.equal((await client.responses.retrieve(response.id)).status, 'failed');
  const messages = [{ role: 'user', content: input }];
  const chunks = await client.chat.completions.create({ model, messages, stream: true });
  await assert.rejects(collect(chunks), OpenAI.APIError);
});
