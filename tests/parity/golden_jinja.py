"""What Jinja2 makes of expressions in a chat template, as transformers sets it up.

Usage: golden_jinja.py MODEL_DIR [--write]    compares with tests/golden/jinja.json, or writes it; the model is not read
"""

import sys

import golden
from transformers.utils.chat_template_utils import _compile_jinja_template

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
# Written as they are, since Jinja has no escape for them.
BEYOND_16_BITS = "['\U000e0001', '\U0010ffff', '\U0001f600', '\U00020000']"
EXPRESSIONS = r"""
'x' is sequence
none is iterable
{'a':1} is sequence
true is number
true is integer
1 is integer
1.0 is integer
1.0 is float
nothing is string
none is mapping
messages is string
'a' in none if false else 'ok'
'b' in 'abc'
'a' in {'a':1}
1 in [1,2]
none == none
nothing == none
nothing is none
nothing is defined
not nothing
nothing|default('d')
''|default('d', true)
none|default('d')
["it's", 'q"']
{'b':1,'a':2}|list
[{'b':none}]|string
[1,2]|join(',')
['b','a']|sort|join
['\u00a0', '\u0085', '\u00ad', '\u0378', '\u3000', '\u200b', '\u2028', '\u202e', '\ue000', '\ufeff', '\x7f']
['\u00e9', 'e\u0301', '\u0301', '\u4e2d', '\u00a1', '\u20ac', '\ufe0f', '\u0e33', '\uac00']
{'a\u00a0': "it's\u2029"}
'\u00a0'|string|length
'  x '|trim
'xyx'|trim('x')
'a,b'|replace(',',';')
'hello world'|title
'hello'|capitalize
'AbC'|lower
3/2
7//2
-7//2
-7%3
2**3
1.0
1e3
10|string
true
none
[1,'a',none,true]
{'a':1,'b':[2]}
'a' ~ 1 ~ none ~ true
'a' * 3
[0]*2
'abc'[-1]
'abc'[::-1]
'abc'[1:]
[1,2,3][-2:]
messages[-1].role
messages[-1]['content']
messages[5]|default('z')
messages|length
messages|map(attribute='role')|list
messages|selectattr('role','equalto','user')|list|length
messages|rejectattr('role','equalto','user')|list|length
messages|selectattr('role','in',['user'])|list|length
messages|first is mapping
(messages|last).role
{'a':1}.get('b')
{'a':1}.get('b','c')
{'a':1}.keys()|list
'a b'.split()
'a,b'.split(',')
' a '.strip()
'xxa'.lstrip('x')
'abc'.startswith('a')
'abc'.endswith(('b','c'))
'abc'.find('c')
'A'.lower()
'a'.upper()
'ab'.replace('a','b')
'%s-%s'|format('a','b')
'{}-{}'.format('a',1)
'a\nb'.splitlines()
'1'.isdigit()
'a'.isalpha()
'abc'|length
'abc'|list
'3'|int
'x'|int
3.7|int
'3.5'|float
3.14159|round(2)
[3,1,2]|max
[1,2]|sum
[1,1,2]|unique|list
range(3)|list
'a\nb'|indent(2)
'a\nb'|indent(2, true)
'<a>'|e
'<a>'|safe
'"q"'|tojson
[1.0, 'é']|tojson
{'a':none}|tojson
{'b':1,'a':2}|tojson
{'b':1,'a':2}|tojson(indent=2)
1 if none else 2
'' or 'x'
'a' and 'b'
none or 0
not ''
1 < 2 < 3
'a' < 'b'
[1,2] == [1,2]
1 == 1.0
true == 1
'1' == 1
namespace(a=1).a
messages is iterable and messages is not string
'x' is not none
tools is iterable
loop is defined
cycler is defined
joiner(', ') is defined
dict(a=1).a
'abc'|reverse
[1,2]|reverse|list
'a b c'|wordcount
'abcdef'|truncate(3)
[1,2,3]|batch(2)|list
messages|groupby('role')|length
'x'|upper|lower
'abc'|first
[]|first is defined
'a-b'.split('-', 1)[1]
'a-b-c'.rsplit('-', 1)
'abc'.removeprefix('a')
'abc'.index('b')
'abc'.count('b')
'Ab'.swapcase()
'a'.center(5)
'a'.zfill(3)
'a'.ljust(3)
'a'.isupper()
' '.isspace()
'a'.join(['x','y'])
[1,2].index(2)
[1,2].count(1)
'abc'|string is string
none|string
true|string
1.50
0.1+0.2
1/3
100000000000000000000
'é'|urlencode
'abc' is lower
'abc' is upper
3 is odd
4 is even
4 is divisibleby 2
3 is eq 3
3 is gt 2
[1] is sameas [1]
true is true
false is false
1 is boolean
'a' is in ['a']
none is callable
range is callable
messages[0].content is string
messages[0].nothing is defined
messages[0]['nothing'] is defined
messages[0].nothing == none
messages|tojson
'\t'|tojson
'</script>'|tojson
[true,false]|map('string')|list
['a','b']|map('upper')|join('-')
[{'a':1}]|map(attribute='a')|list
[1,2,3]|select('odd')|list
[1,2,3]|reject('odd')|list
['',1]|select|list
'abc'|replace('b','')
'aXbX'|replace('X','-',1)
'a'|default
-5|abs
'a\n\n'|trim
'x'.strip() or 'y'
""".strip().splitlines() + [BEYOND_16_BITS]


def measure(_model_dir: str) -> dict:
    def text(expression: str) -> str:
        template = _compile_jinja_template("{{ " + expression + " }}")
        return template.render(messages=MESSAGES, add_generation_prompt=False, tools=None, documents=None)

    return {"expressions": [{"expression": one, "text": text(one)} for one in EXPRESSIONS]}


if __name__ == "__main__":
    golden.main("jinja.json", measure, golden.require_equal, sys.argv)
